"""The little internet, and one house before it for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixturezones import Internet, little_internet
from livehouse import LiveHouse, live_house


@pytest.fixture(scope="session")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with little_internet(tmp_path_factory.mktemp("internet")) as running:
        yield running


@pytest.fixture(scope="session")
def house(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHouse]:
    """Forwards to the little internet; ``nas.lan`` and ``big.lan`` are its own, ``ads.example`` is blocked."""
    settings = {
        "nameserver": [f"udp://127.0.0.1:{internet.port}"],
        "domain": "lan",
        "records": ["nas.lan A 192.168.1.2", *(f"big.lan TXT {'y' * 200}{number}" for number in range(20))],
        "block": ["+.ads.example"],
        "query-log": {"privacy": "none"},
    }
    with live_house(tmp_path_factory.mktemp("house"), settings) as running:
        yield running
        running.assert_well()
