"""What a service is: a name, and a callable from caller, method and parameters to a result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cyfs_ns.identity.strictjson import Json
from zone.krpc.caller import Caller

SECONDS: Final = 15.0
"""Of a call whose caller has not said how long they wait."""
MOST_SECONDS: Final = 60.0
"""Of any call."""

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
"""Of services: what the scheduler takes, and ``_``, which some of the zone's own have (``system_config``)."""
METHOD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}")
"""Of methods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What a call brings with it, beside who calls and what for."""

    seconds: float = SECONDS
    """How long whoever called waits, from now on.  Whoever carries the call out cancels it then."""
    trace: str = ""
    """Names the errand that this call is a part of, for logs; goes along with the calls that it makes."""
    source: str = ""
    """Where it came from, for limits and logs: an address, or the device at the far end of a tunnel."""


class Service(Protocol):
    """Answers calls.  One at a time or many at once, in any order.

    Raises ``KrpcFault``; anything else that it raises is a fault of its own, of which callers learn nothing more.
    """

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json: ...
