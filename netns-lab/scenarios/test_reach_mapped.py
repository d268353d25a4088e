"""A box at home behind a router that maps ports (the real miniupnpd), and a laptop where UDP is not let out.

The laptop's connections leave from another port each time, so that none can cross another on the way: what is direct
comes in by the port that the router maps to the box's own door.
"""

from __future__ import annotations

import pytest
from members import INTERNET, Sn, members, opened
from netnslab import NO_UDP, SYMMETRIC, Nat, need

from tests.rtcp.nat.portmap.home import CONFIGURATION, RULES

DOOR = 2980
MAPPING = Nat(name="mapping", mapping="EIM", filtering="APDF", port_kept=True, rules=RULES)


@pytest.mark.parametrize("natpmp", [True, False], ids=["PCP", "UPnP"])
async def test_where_udp_is_blocked_the_door_is_called_that_the_router_maps(lab, natpmp):
    need("miniupnpd")
    core = lab.network(INTERNET, name="core")
    sn = Sn(lab.host(core, name="sn"))
    home = lab.network("192.168.1.0/24", uplink=core, nat=MAPPING, name="home")
    away = lab.network("100.64.0.0/24", uplink=core, nat=SYMMETRIC, name="away")
    hotel = lab.network("192.168.7.0/24", uplink=away, nat=NO_UDP, name="hotel")
    box, laptop = members([lab.host(home, name="box"), lab.host(hotel, name="laptop")])
    box.more = {"listen": DOOR}
    words = {True: "yes", False: "no"}
    async with lab.up(timeout=170):
        configuration = lab.directory / "miniupnpd.conf"
        configuration.write_text(
            CONFIGURATION.format(natpmp=words[natpmp], upnp=words[not natpmp], first="no", old="no")
        )
        router = home.router
        router.start("miniupnpd", "-d", "-f", str(configuration), "-P", str(lab.directory / "pid"), name="miniupnpd")
        async with opened(lab, sn, [box, laptop]):
            await laptop.dial(box)
            outside = next(port.addresses[0].partition("/")[0] for port in router.ports if port.network is core)
            seen = await laptop.goes(box, f"tcp {outside}:{DOOR}", seconds=60)
            assert seen["why"] == "direct"
