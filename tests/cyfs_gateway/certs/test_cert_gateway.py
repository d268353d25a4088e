"""The module in a whole gateway: its own name server shows the proofs, the command line tells how things are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from cyfs_gateway.host import Host
from cyfs_gateway.io.certs.module import CertificatesModule
from cyfs_gateway.io.modules import Modules
from cyfs_ns.errors import ConfigFault
from tests.cyfs_gateway.certs.keeping import hasty
from tests.cyfs_gateway.certs.pebbleca import pebble
from tests.cyfs_gateway.io.inprocess import living, until
from tests.freeport import free_port

PROGRAM = [sys.executable, "-c", "from cyfs_gateway.io.cli import main; main()"]


class Asker:
    """A module that ends TLS, and one that would give certificates, too."""

    section = "asker"
    host: Host

    @classmethod
    def check(cls, settings: Any) -> None:
        """Anything goes."""

    async def run(self, host: Host, settings: Any) -> None:
        type(self).host = host
        if settings == "greedy":
            await until(lambda: host.certificates is not None)
            assert host.certificates is not None
            host.register_certificates(host.certificates)
        await trio.sleep_forever()


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"certificates": CertificatesModule, "asker": Asker}
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: known))


async def command(home: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(60):
        done: subprocess.CompletedProcess[bytes] = await trio.run_process(
            [*PROGRAM, "--home", str(home), *words], capture_stdout=True, capture_stderr=True, check=False
        )
    return done


def _section(ca: Mapping[str, str], names: str) -> str:
    return f"""
certificates:
  agree: true
  directory: {ca["directory"]}
  trust: {ca["trust"]}
  serve-dns: true
  names: {names}
"""


async def test_a_gateway_gets_a_certificate_by_its_own_name_server(tmp_path: Path) -> None:
    port = free_port()
    base = f"""
ipv6: true
dns: {{enable: true, use-system-hosts: false, listen: "127.0.0.1:{port}", nameserver: ["127.0.0.1:9"]}}
rules: ["MATCH,DIRECT"]
"""
    (folder := tmp_path / "ca").mkdir()
    home = tmp_path / "home"
    with pebble(folder, port) as ca, hasty():
        section = _section({"directory": ca.directory, "trust": ca.trust}, "[nas.home.test, '*.home.test']")
        async with living(home, section + "asker: true\n", base=base) as house:
            await until(lambda: hasattr(Asker, "host") and Asker.host.certificates is not None)
            source = Asker.host.certificates
            assert source is not None
            await until(lambda: source.certificate_for("nas.home.test") is not None)
            await until(lambda: source.certificate_for("any.home.test") is not None)
            status = house.gateway._modules.status
            good = {"running": True, "nas.home.test": "good", "_.home.test": "good"}
            await until(lambda: status()["certificates"] == good)
            done = await command(home, "certs", "list", "--json")
            listed = {each["label"]: each for each in json.loads(done.stdout)["certificates"]}
            assert {each["state"] for each in listed.values()} == {"good"}
            assert set(listed) == {"nas.home.test", "_.home.test"}
            done = await command(home, "certs", "list")
            assert b"nas.home.test" in done.stdout and b"Pebble" in done.stdout and not done.stderr
            first = listed["nas.home.test"]["serial"]
            done = await command(home, "certs", "renew", "nas.home.test")
            assert done.stdout == b"ordered: nas.home.test\n"

            renewed = source.status  # type: ignore[attr-defined]
            await until(lambda: first not in json.dumps(renewed()))
            done = await command(home, "certs", "renew", "other.home.test")
            assert done.returncode == 1 and b"other.home.test" in done.stderr
            await house.reload("asker: true\n", base=base)
            await until(lambda: Asker.host.certificates is None)


async def test_who_gives_certificates_is_one(tmp_path: Path) -> None:
    async with living(tmp_path, "certificates: {}\nasker: greedy\nrules: ['MATCH,DIRECT']\n") as house:
        status = house.gateway._modules.status
        await until(lambda: "another module gives certificates already" in status()["asker"].get("fault", ""))
        assert status()["certificates"]["running"]


async def test_a_port_that_is_taken_costs_the_port_alone(tmp_path: Path) -> None:
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        config = f"certificates: {{listen: {{http: '127.0.0.1:{port}'}}}}\nrules: ['MATCH,DIRECT']\n"
        async with living(tmp_path, config) as house:
            status = house.gateway._modules.status
            await until(lambda: "in use" in status()["certificates"].get("listen/http", ""))
            assert status()["certificates"]["running"]
            done = await command(tmp_path, "certs", "list")
            assert b"listen/http" in done.stderr


def test_a_section_that_makes_no_sense_stops_a_reload() -> None:
    with pytest.raises(ConfigFault, match="agree"):
        CertificatesModule.check({"names": ["nas.example"]})
