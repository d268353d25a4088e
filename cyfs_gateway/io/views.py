"""Outbounds and groups as the control API shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cyfs_gateway.control.shapes import proxy_json
from cyfs_gateway.facade import ProxyView
from cyfs_gateway.io.tracker import Tracker
from cyfs_gateway.io.world import Unsupported, World
from tunnels.io.groups import Group
from tunnels.outbound import Outbound
from tunnels.spec import DEFAULT_TEST_URL, ProxySpec


class ProxyViews:
    """Views of one world's outbounds."""

    def __init__(self, world: World, tracker: Tracker) -> None:
        self._world = world
        self._tracker = tracker

    def all(self) -> dict[str, ProxyView]:
        """Everything with a name of its own: built-ins, proxies, groups."""
        carried = self._tracker.by_outbound()
        return {name: self._view(outbound, carried, "") for name, outbound in self._world.outbounds.items()}

    def view(self, outbound: Outbound, provider: str) -> ProxyView:
        """One outbound; ``provider`` is where it came from, empty for the configuration."""
        return self._view(outbound, self._tracker.by_outbound(), provider)

    def of_provider(self, name: str) -> list[Mapping[str, Any]]:
        """The proxies of a provider, as JSON objects."""
        carried = self._tracker.by_outbound()
        return [proxy_json(self._view(one, carried, name)) for one in self._world.provided[name].values()]

    def _view(self, outbound: Outbound, carried: Mapping[str, tuple[int, int]], provider: str) -> ProxyView:
        up, down = carried.get(outbound.name, (0, 0))
        extra: dict[str, Any] = {}
        url = DEFAULT_TEST_URL
        of = outbound.name
        if isinstance(outbound, Group):
            spec = outbound.spec
            url = spec.url
            of = outbound.now or outbound.name
            extra = {
                "now": outbound.now,
                "all": outbound.all,
                "testUrl": spec.url,
                "expectedStatus": spec.expected_status,
                "fixed": outbound.fixed,
                "hidden": spec.hidden,
                "icon": spec.icon,
            }
        else:
            spec_of_leaf = getattr(outbound, "spec", None)
            if isinstance(spec_of_leaf, ProxySpec):
                extra = {
                    "interface": spec_of_leaf.interface_name,
                    "routing-mark": spec_of_leaf.routing_mark,
                    "dialer-proxy": spec_of_leaf.dialer_proxy,
                    "tfo": spec_of_leaf.tfo,
                    "mptcp": spec_of_leaf.mptcp,
                }
        if provider:
            extra["provider-name"] = provider
        health = self._world.health
        extra["extra"] = {
            tested: {
                "alive": health.alive(of, tested),
                "history": [one.as_json() for one in health.history(of, tested)],
            }
            for tested in health.urls(of)
        }
        return ProxyView(
            name=outbound.name,
            kind=outbound.kind,
            udp=outbound.udp,
            alive=not isinstance(outbound, Unsupported) and health.alive(of, url),
            history=tuple(one.as_json() for one in health.history(of, url)),
            up=up,
            down=down,
            extra=extra,
        )
