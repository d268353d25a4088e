"""How the commands ask the zone's module of the gateway that runs here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from cyfs_gateway.io.cli.common import ask_module

if TYPE_CHECKING:
    from cyfs_gateway.io.cli.common import Place

OFF: Final = (
    "this machine is in no zone, or its gateway runs without it: cyfs-gateway node status"
    " (a gateway that ran when its machine was activated has to be restarted)"
)


def control(place: Place, method: str, unknown: str = "", /, **body: Any) -> Mapping[str, Any]:
    """What the module answers; ``unknown`` is said where it does not know what it was asked about."""
    said: Mapping[str, Any] = ask_module(place, "zone", method, body, off=OFF, unknown=unknown)
    return said


def call(place: Place, method: str, unknown: str = "", /, **params: Any) -> Any:
    """What ``system_config`` answers."""
    return control(place, "call", unknown, service="system_config", method=method, params=params)["result"]
