"""A zone of one machine as a process of its own, to be killed: says ``booted`` and lives on."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from alone import Alone

from zone.io.boot.booting import Booting
from zone.io.config.store import ConfigStore
from zone.membership import Membership


async def life(store: ConfigStore, membership: Membership) -> None:
    print("booted", (await store.get("boot/config")).version, flush=True)
    await trio.sleep_forever()


if __name__ == "__main__":
    home = Path(sys.argv[1])
    trio.run(Booting(home, Alone(home), [], life).run)
