"""ENS on a real node, for all tests that only ask."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trustme
from enschain import GATEWAY, Anvil, gateway, missing
from ensworld import Ens, published


@pytest.fixture(scope="session")
def ens() -> Iterator[Ens]:
    if why := missing():
        pytest.skip(why)
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(GATEWAY, "other.example", "10.0.0.5.example").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    node = Anvil()
    try:
        with gateway(serving) as gate:
            yield published(node, gate, trusting)
    finally:
        node.close()
