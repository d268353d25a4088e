"""The picture most scenarios share: a server on the internet, and a LAN behind a router box.

The box routes without NAT, so that a server sees at once whether the gateway dialled (the box's address) or the packets
just passed through (the client's).
"""

from __future__ import annotations

from collections.abc import Sequence

from netnslab import Host, Lab
from netnslab.process import run

__all__ = ["Picture"]


class Picture:
    """``server`` has two addresses of each family; ``box`` has ``wan`` and ``lan``; ``client`` is in the LAN."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.internet = lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")
        self.server = lab.host(self.internet, name="server", addresses=2)
        self.lan = lab.network("192.168.1.0/24", "2001:db8:a::/64", uplink=self.internet, name="lan")
        assert self.lan.router is not None
        self.box: Host = self.lan.router
        self.client = lab.host(self.lan, name="client")
        self.box_lan = "192.168.1.1"

    async def on_box(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """A command on the box, in the form the netfilter shell takes its runner."""
        done = await run(self.box.namespace, argv, stdin=stdin, check=False)
        return done.code, done.out, done.err

    async def traces(self) -> str:
        """All that interception could leave on the box: rulesets, ip rules, routes."""
        questions = ("nft list ruleset", "ip -4 rule", "ip -6 rule")
        questions += ("ip -4 route show table all", "ip -6 route show table all")
        texts = [(await self.box.run(*question.split())).out for question in questions]
        return "\n".join(line for text in texts for line in text.splitlines())
