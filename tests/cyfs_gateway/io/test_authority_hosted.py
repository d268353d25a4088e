"""A module that speaks for a domain, on the name server of a living gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from inprocess import until
from names_house import named

from cyfs_gateway.host import Changed, Host
from cyfs_gateway.io.modules import Modules
from cyfs_gateway.sn.zone import Zone
from cyfs_ns.authority import Statement
from tests.cyfs_gateway.sn.zonefakes import HOME4, NOW, V4, said, zone


class Speaker:
    """Speaks for the zone of an SN."""

    section = "speaker"
    zone: Zone
    changed: Changed

    @classmethod
    def check(cls, settings: Any) -> None:
        """Anything goes."""

    async def run(self, host: Host, settings: Any) -> None:
        cls = type(self)
        cls.zone = zone()
        cls.changed = staticmethod(host.register_authority(self))
        await trio.sleep_forever()

    def lookup(self, name: bytes, rtype: int) -> Statement | None:
        return self.zone.lookup(name, rtype, NOW)


class Second(Speaker):
    section = "second"


ANYTHING = "rules: ['MATCH,DIRECT']\n"


@pytest.fixture
def speakers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"speaker": Speaker, "second": Second}))


async def test_a_module_speaks_for_a_domain_to_everybody(tmp_path: Path, speakers: None) -> None:
    strangers = "  allow-from: [192.0.2.0/24]\n"
    async with named(tmp_path, strangers, ANYTHING + "speaker: true\n") as names:
        await until(lambda: names.house.gateway.has_authority)
        assert await names.ask("photos.alice.sn.example") == [V4]
        verdict = Speaker.zone.update(said(addresses=(HOME4,), exposed=True), NOW)
        Speaker.changed(verdict.changed)
        assert await names.ask("photos.alice.sn.example") == [HOME4]
        assert await names.ask("www.example.net") == []
        # Another configuration keeps it, its end takes it away.
        await names.reload("", ANYTHING + "speaker: true\n")
        assert await names.ask("photos.alice.sn.example") == [HOME4]
        assert await names.ask("www.example.net") == ["127.0.0.1"]
        await names.reload(strangers, ANYTHING)
        await until(lambda: not names.house.gateway.has_authority)
        assert await names.ask("photos.alice.sn.example") == []
        assert "www.example.net" in names.upstream.names()


async def test_one_module_speaks_and_the_name_server_may_come_later(tmp_path: Path, speakers: None) -> None:
    both = ANYTHING + "speaker: true\nsecond: true\n"
    async with named(tmp_path, "  enable: false\n", both) as names:
        state = names.house.gateway._modules.status
        await until(lambda: any("fault" in each for each in state().values()))
        (told,) = [each["fault"] for each in state().values() if "fault" in each]
        assert "another module speaks for a domain already" in told
        assert names.house.gateway.has_authority
        await names.reload("", both)
        assert await names.ask("alice.sn.example") == [V4]


async def test_a_fault_of_the_module_costs_the_house_nothing(
    tmp_path: Path, speakers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Speaker, name: bytes, rtype: int) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(Speaker, "lookup", fail)
    async with named(tmp_path, "", ANYTHING + "speaker: true\n") as names:
        await until(lambda: names.house.gateway.has_authority)
        assert await names.ask("www.example.net") == ["127.0.0.1"]
        await until(lambda: not names.house.gateway.has_authority)
        assert "a mistake" in names.house.gateway._modules.status()["speaker"]["fault"]
