"""The little internet, and houses before it for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asking import TRANSPORTS
from fixturezones import Internet, little_internet
from livehouse import LiveHouse, Place, live_house


@pytest.fixture(scope="session")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with little_internet(tmp_path_factory.mktemp("internet")) as running:
        yield running


@pytest.fixture(scope="session")
def house(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHouse]:
    """Forwards to the little internet; ``nas.lan`` and ``big.lan`` are its own, ``ads.example`` is blocked."""
    with live_house(tmp_path_factory.mktemp("house"), settings(internet)) as running:
        yield running
        running.assert_well()


@pytest.fixture(scope="session")
def crew(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHouse]:
    """The same with workers."""
    with live_house(tmp_path_factory.mktemp("crew"), {**settings(internet), "workers": 2}) as running:
        yield running
        running.assert_well()


def settings(internet: Internet) -> dict[str, object]:
    return {
        "nameserver": [f"udp://127.0.0.1:{internet.port}"],
        "domain": "lan",
        "records": ["nas.lan A 192.168.1.2", *(f"big.lan TXT {'y' * 200}{number}" for number in range(20))],
        "block": ["+.ads.example"],
        "query-log": {"privacy": "none"},
    }


PLACES = ["house 127.0.0.1", "house ::1", "crew 127.0.0.1", "crew ::1"]
WAYS = [
    (place, transport)
    for place in PLACES
    for transport in TRANSPORTS
    # Workers have to do with datagrams alone; streams are asked once beside them.
    if place.startswith("house") or transport in ("udp", "tcp")
]


def place_of(request: pytest.FixtureRequest, which: str) -> Place:
    kind, host = which.split()
    return Place(request.getfixturevalue(kind), host)


@pytest.fixture(scope="session", params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return place_of(request, request.param)


@pytest.fixture(scope="session", params=WAYS, ids=" ".join)
def way(request: pytest.FixtureRequest) -> tuple[Place, str]:
    """A place and a transport."""
    which, transport = request.param
    return place_of(request, which), transport
