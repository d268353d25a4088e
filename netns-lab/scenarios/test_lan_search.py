"""Devices of one LAN find each other by their keys; from the next LAN, a router away, nobody is found."""

from __future__ import annotations

import sys
from functools import partial

import trio
from netnslab import HOME
from netnslab.process import until

from cyfs_ns.identity.keys import SecretKey
from rtcp.io.nat.lan import find

NAS, PI, ABSENT = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
_ANSWER = """
import sys, trio
from cyfs_ns.identity.keys import SecretKey
from rtcp.io.nat.lan import Responder
own = SecretKey(bytes([int(sys.argv[1])]) * 32)
trio.run(Responder(own, lambda: (2980, int(sys.argv[2])), lambda: ["192.0.2.1"]).run)
"""


async def test_devices_of_a_link_are_found_by_their_keys(lab):
    internet = lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")
    home = lab.network("192.168.1.0/24", "fd00:1::/64", uplink=internet, nat=HOME, name="home")
    next_door = lab.network("192.168.2.0/24", uplink=internet, nat=HOME, name="next")
    box, laptop, neighbour = lab.host(home), lab.host(home), lab.host(next_door)

    async def looks(host, *keys):
        return await host.call(partial(trio.run, partial(find, [key.public for key in keys], patience=1.0)))

    async with lab.up():
        for number in (1, 2):  # two devices on one machine
            box.start(sys.executable, "-c", _ANSWER, str(number), str(41000 + number), name=f"device{number}")
        found = {}

        async def both_answer() -> bool:
            found.update({one.answer.key: one for one in await looks(laptop, NAS, PI)})
            return len(found) == 2

        await until("both answer", both_answer, timeout=30)
        for number, device in enumerate((NAS, PI), start=1):
            answer = found[device.public].answer
            assert (answer.tcp, answer.udp, answer.addresses) == (2980, 41000 + number, ("192.0.2.1",))
            source = found[device.public].source
            assert source in box.addresses or source.startswith("fe80::"), source
        assert await looks(laptop, ABSENT) == ()
        assert await looks(neighbour, NAS) == ()
        (also,) = await looks(box, PI)  # from the same machine
        assert also.answer.key == PI.public
