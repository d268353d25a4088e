"""Who may use a listener: the LAN prefixes of Clash, decided by address alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from cyfs_gateway.config.model import ListenerConfig
from cyfs_ns.config.written import Network

_VERDICTS_KEPT: Final = 4096


class AddressFilter:
    """Who may use a listener, and who needs no password.  Answers are remembered, boundedly: clients come back."""

    def __init__(self, config: ListenerConfig) -> None:
        self._allowed = config.allowed
        self._disallowed = config.disallowed
        self._skip_auth = config.skip_auth_prefixes
        self._proxy_protocol = config.proxy_protocol_from
        self._known: dict[str, tuple[bool, bool, bool]] = {}

    def judge(self, host: str) -> tuple[bool, bool, bool]:
        """(served at all, excused from authentication, expected to speak the PROXY protocol)."""
        known = self._known.get(host)
        if known is None:
            known = self._judge(host)
            if len(self._known) >= _VERDICTS_KEPT:
                self._known.clear()
            self._known[host] = known
        return known

    def _judge(self, host: str) -> tuple[bool, bool, bool]:
        address = ipaddress.ip_address(host)

        def among(networks: Sequence[Network]) -> bool:
            return any(address.version == network.version and address in network for network in networks)

        served = (not self._allowed or among(self._allowed)) and not among(self._disallowed)
        return served, among(self._skip_auth), among(self._proxy_protocol)
