"""Name servers and their clients on lab hosts: the installed ``cyfs-ns``, servers of others to hold it against, dig."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
import trustme
import yaml

from netnslab.lab import Host
from netnslab.process import Process

__all__ = ["Answer", "NameServer", "Record", "Tls", "dig", "dnsmasq", "name_server", "unbound"]

_PROGRAM = Path(sys.prefix) / "bin" / "cyfs-ns"
_STATUS = re.compile(r"status: (\w+)")
_EXTENDED = re.compile(r"^; EDE: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an answer section."""

    name: str
    ttl: int
    rtype: str
    data: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What dig made of a reply; ``status`` is empty when none came."""

    status: str
    records: tuple[Record, ...]
    extended: tuple[int, ...]
    """Codes of extended errors (RFC 8914)."""
    text: str

    @property
    def data(self) -> list[str]:
        """What the records say, without aliases."""
        return [record.data for record in self.records if record.rtype != "CNAME"]


async def dig(host: Host, server: str, name: str, rtype: str = "A", *options: str) -> Answer:
    """Ask ``server`` with the real program, over UDP unless ``options`` (``+tcp``) say otherwise."""
    words = ["dig", f"@{server}", "-q", name, "-t", rtype, "+noall", "+comments", "+answer", "+time=8", "+tries=1"]
    done = await host.run(*words, *options, check=False)
    status = _STATUS.search(done.out)
    records = []
    for line in done.out.splitlines():
        if line and not line.startswith(";"):
            owner, ttl, _, kind, data = line.split(None, 4)
            records.append(Record(owner.removesuffix("."), int(ttl), kind, data))
    codes = tuple(int(code) for code in _EXTENDED.findall(done.out))
    return Answer(status[1] if status else "", tuple(records), codes, done.out)


class Tls:
    """An authority made for one lab.  Programs that should trust it get ``environment``."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._authority = directory, trustme.CA()
        self.authority = directory / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))

    @property
    def environment(self) -> dict[str, str]:
        """For programs on OpenSSL: this authority and no other."""
        return {"SSL_CERT_FILE": str(self.authority)}

    def certificate(self, *names: str) -> Path:
        """A file with key and chain for these names or addresses."""
        file = self._directory / f"{names[0]}.pem"
        self._authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(file))
        return file


class NameServer:
    """A running ``cyfs-ns serve``.  After ``stop`` or ``kill`` the end of the block does nothing more."""

    def __init__(self, host: Host, file: Path, home: Path, process: Process) -> None:
        self.host, self.file, self.home, self.process = host, file, home, process

    def reload(self, config: Mapping[str, Any]) -> None:
        """Write another configuration and send SIGHUP."""
        _write(self.file, config)
        self.process.send(signal.SIGHUP)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return await self.process.stop()

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        await self.process.kill()

    async def ask(self, *words: str) -> str:
        """What a command of ``cyfs-ns`` says of this server."""
        return (await self.host.run(str(_PROGRAM), *words, "--home", str(self.home))).out


def _write(file: Path, config: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False))


@contextlib.asynccontextmanager
async def name_server(
    host: Host, config: Mapping[str, Any], home: Path, *, port: int = 53, env: Mapping[str, str] | None = None
) -> AsyncIterator[NameServer]:
    """The installed program on ``host``, answering at 127.0.0.1 when the block begins, gone when it ends."""
    file = home.with_suffix(".yaml")
    _write(file, config)
    process = host.start(str(_PROGRAM), "serve", "-c", str(file), "--home", str(home), name="cyfs-ns", env=env)
    await host.wait_for_port(port)
    try:
        yield NameServer(host, file, home, process)
    finally:
        with trio.CancelScope(shield=True):
            if process.code is None:
                await process.stop()


def dnsmasq(host: Host, *options: str) -> Process:
    """dnsmasq with these options and no others: neither files nor the machine's own name servers have a say."""
    alone = ("--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--user=root", "--log-facility=-")
    return host.start("dnsmasq", "--keep-in-foreground", *alone, *options)


async def unbound(host: Host, directory: Path, lines: str, *, wait_for: tuple[int, str]) -> Process:
    """unbound with these lines in its ``server`` section, logging every question."""
    file = directory / f"{host.name}.unbound.conf"
    usual = 'do-daemonize: no\nchroot: ""\nusername: ""\npidfile: ""\nuse-syslog: no\nlogfile: ""\nlog-queries: yes\n'
    usual += f'directory: "{directory}"\naccess-control: 0.0.0.0/0 allow\naccess-control: ::/0 allow\n'
    usual += "do-not-query-localhost: no\nmodule-config: iterator\nnum-threads: 1\n"
    file.write_text(f"server:\n{usual}{lines}\nremote-control:\n  control-enable: no\n")
    process = host.start("unbound", "-d", "-c", str(file))
    await host.wait_for_port(*wait_for)
    return process
