"""``cyfs-ns``: a name server, and names, from the command line.

Exit codes: 0 done, 1 it failed (or the name is not there), 2 wrong usage, 3 no name server is running, 9 no server
answered.  Every command lives in a module that is imported when it is called, and imports what it needs itself: asking
for a name must not wait for what a server needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from cyfs_ns.io.cli.program import Program


class _Place(NamedTuple):
    module: str
    attribute: str
    help: str


_COMMANDS = {
    "serve": _Place("server", "serve", "Run the name server until it is told to stop."),
    "check": _Place("server", "check", "Say everything that is wrong with a configuration."),
    "import": _Place("server", "import_", "Turn a dnsmasq configuration into one of ours."),
    "status": _Place("running", "status", "Show what the running server does."),
    "explain": _Place("running", "explain", "Tell the whole way of an answer."),
    "log": _Place("running", "log", "Show the questions clients asked."),
    "stats": _Place("running", "stats", "Show what is asked most, by whom, and what was blocked."),
    "upstreams": _Place("running", "upstreams", "Show the health of the servers behind."),
    "lists": _Place("running", "lists", "Show the block, allow and rewrite lists."),
    "flush": _Place("running", "flush", "Forget cached answers."),
    "reload": _Place("running", "reload", "Read the configuration again."),
    "resolve": _Place("asking", "resolve", "Ask name servers for records."),
    "id": _Place("", "id_commands", "Who this machine is, what its owner signed, and whom it believes."),
    "bench": _Place("benching", "bench", "Measure name servers against each other."),
    "version": _Place("running", "version", "Print the version."),
}


_ID = {
    "new": _Place("identity", "new", "Make the key of this machine."),
    "show": _Place("identity", "show", "Show who this machine is."),
    "export": _Place("identity", "export", "Print this machine's key in the form others want."),
    "rotate": _Place("identity", "rotate", "Replace the key of this machine."),
    "owner": _Place("owning", "owner", "Make an owner's key, and bring it back from its words."),
    "request": _Place("identity", "request", "Ask the owner for a document, as a file."),
    "sign": _Place("signing", "sign", "Sign documents with the owner's key."),
    "accept": _Place("identity", "accept", "Take the document the owner signed for this machine."),
    "verify": _Place("verifying", "verify", "Say what a document is, who signed it, and what is wrong."),
    "txt": _Place("publishing", "txt", "Print the DNS records to publish."),
    "trust": _Place("pinning", "trust", "Pin an identity's key on this machine."),
    "untrust": _Place("pinning", "untrust", "Take a pin away."),
}


class _Commands(Program):
    """Commands that are imported when they are needed."""

    def __init__(self, places: Mapping[str, _Place], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._places.get(cmd_name)
        if place is None:
            return None
        found = getattr(import_module(f"{__name__}.{place.module}".rstrip(".")), place.attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in self._places.items()])


id_commands = _Commands(
    _ID,
    name="id",
    help="""Who this machine is, what its owner signed, and whom it believes.

    \b
    Example:
      cyfs-gateway id show
    """,
    short_help="Who this machine is, what its owner signed, and whom it believes.",
)
"""``id …``, of both programs."""

main = _Commands(
    _COMMANDS,
    name="cyfs-ns",
    help="A name server for the house, and names from the command line.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
