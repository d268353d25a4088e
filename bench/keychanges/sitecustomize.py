"""In the PYTHONPATH of a gateway, this tells how often its peers have changed their keys.

Each change that a record has proved, by opening under the next key, is the gateway's process id on a line of the file
``KEYS_SEEN_IN``.  Nothing else is touched, and nothing is done for any other record.
"""

from __future__ import annotations

import os
from pathlib import Path

from rtcp.v5.carrier import Carrier

_follow = Carrier._count_step


def _follow_and_tell(self: Carrier, now: float) -> None:
    _follow(self, now)
    with Path(os.environ["KEYS_SEEN_IN"]).open("a") as seen:
        seen.write(f"{os.getpid()}\n")


Carrier._count_step = _follow_and_tell  # type: ignore[method-assign]
