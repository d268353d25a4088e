from __future__ import annotations

import pytest

from cyfs_ns.edns import Ecs
from cyfs_ns.subnet import SubnetPolicy, fixed_subnet

OWN = Ecs(1, 16, 0, b"\xc6\x33")


@pytest.mark.parametrize(
    ("policy", "asked", "client", "told"),
    [
        (SubnetPolicy(), OWN, "198.51.100.7", None),
        (SubnetPolicy("pass"), None, "198.51.100.7", None),
        (SubnetPolicy("pass"), Ecs(1, 16, 24, b"\xc6\x33"), "10.0.0.1", "198.51.0.0/16"),
        (SubnetPolicy("add"), OWN, "8.8.4.4", "198.51.0.0/16"),
        (SubnetPolicy("add"), Ecs(0, 0, 0, b""), "8.8.4.4", "0/0"),
        (SubnetPolicy("add"), None, "8.8.4.4", "8.8.4.0/24"),
        (SubnetPolicy("add", bits6=48), None, "2606:4700:1:2::3", "2606:4700:1::/48"),
        (SubnetPolicy("add"), None, "192.168.1.2", None),
        (SubnetPolicy("add"), None, "fe80::1%eth0", None),
        (SubnetPolicy("add", (fixed_subnet("1.2.3.4/20"),)), None, "192.168.1.2", "1.2.0.0/20"),
        (SubnetPolicy("add", (fixed_subnet("1.2.3.4/20"),)), None, "fd00::1", "1.2.0.0/20"),
        (
            SubnetPolicy("add", (fixed_subnet("1.2.3.4/20"), fixed_subnet("2606::/32"))), None, "fd00::1", "2606::/32",
        ),
    ],
)  # fmt: skip
def test_what_is_told(policy: SubnetPolicy, asked: Ecs | None, client: str, told: str | None) -> None:
    found = policy.told(asked, client)
    # "0/0" is a client that tells nothing, which is of no family.
    assert found == (None if told is None else Ecs(0, 0, 0, b"") if told == "0/0" else fixed_subnet(told))
