"""A zone of three OODs in three houses, all of them the installed program, activated as their owner does it.

``ood1`` and ``ood2`` are public; ``ood3`` is at home behind a NAT, and nobody can dial it.  The owner's key is on
``laptop``, which is no machine of the zone; more ``nodes`` are, and run nothing.  ``names`` tells the zone's documents
to whoever asks by DNS.  Each machine has processes of its own: services and members of etcd outlive a gateway that is
killed, and end with the power.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from devices import PROGRAM
from netnslab import HOME, Gateway, GatewayFault, Host, Lab, Process, need
from netnslab.nameserver import dnsmasq
from netnslab.process import CommandFailed, Done, until

__all__ = ["NAMES", "PROXY", "ZONE", "Ood", "ZoneWorld"]

ZONE, NAMES = "home.example", ("ood1", "ood2", "ood3")
PROXY, _DOOR = 7890, 2980
_CUT = "table inet cut { chain in { type filter hook input priority -400; iif != lo drop; }; "
_CUT += "chain out { type filter hook output priority -400; oif != lo drop; }; }"


@dataclass
class Ood:
    """One of the machines."""

    host: Host
    folder: Path
    running: Gateway | None = None

    @property
    def gateway(self) -> Gateway:
        assert self.running is not None
        return self.running

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def home(self) -> Path:
        """Of the gateway."""
        return self.folder / "state"

    @property
    def node(self) -> Path:
        """Where services run."""
        return self.folder / "state-node"

    async def program(self, *words: str, check: bool = True, timeout: float = 60) -> Done:
        """A command of ours there."""
        return await self.host.run(PROGRAM, "--home", str(self.home), *words, timeout=timeout, check=check)

    async def told(self, *words: str) -> Any:
        """What a command says as JSON."""
        return json.loads((await self.program(*words, "--json")).out)

    async def call(self, method: str, **params: Any) -> Any:
        """``system_config``, by the gateway's control.  Raises ``CommandFailed``, ``GatewayFault``."""
        asked = {"service": "system_config", "method": method, "params": params}
        return (await self.gateway.api("/cyfs/modules/zone/call", method="POST", body=asked))["result"]

    async def set(self, key: str, value: Any) -> int:
        """Write into the zone's configuration, as ``config set`` does; the revision, once it is acknowledged."""
        return int((await self.call("transact", actions=[{"do": "set", "key": key, "value": value}]))["revision"])

    async def get(self, key: str) -> Any:
        """What the zone's configuration has there, as ``config get`` says it."""
        (entry,) = (await self.call("read", scopes=[{"at": key}]))["entries"]
        return entry["value"]

    async def leads(self) -> bool:
        """Whether its member of etcd leads the others."""
        (socket,) = self.home.glob("zone/*/etcd/client:1")
        words = ("etcdctl", f"--endpoints=unix://{socket}", "endpoint", "status", "-w", "json")
        done = await self.host.run("env", "ETCDCTL_API=3", *words, check=False)
        told = json.loads(done.out)[0]["Status"] if done.code == 0 else {}
        return "leader" in told and bool(told["leader"] == told["header"]["member_id"])

    async def status(self) -> Any:
        """As ``zone status`` has it; empty where nobody can be asked."""
        try:
            return (await self.gateway.api("/cyfs/status"))["modules"]["zone"]
        except (CommandFailed, GatewayFault):
            return {}

    @property
    def said(self) -> str:
        """The end of its log, without what it was asked for by us."""
        lines = [] if self.running is None else self.running.process.text().splitlines()
        return "\n".join([line for line in lines if '"cyfs.control"' not in line][-40:])

    # What becomes of it

    def start(self) -> None:
        """Its gateway, which does the rest."""
        config = str(self.folder / "config.yaml")
        process = self.host.start(PROGRAM, "run", "-c", config, "--home", str(self.home), name="cyfs-gateway")
        self.running = Gateway(self.host, self.home, process)

    async def kill_gateway(self) -> None:
        """With SIGKILL; what it had started goes on."""
        await self.gateway.kill()

    async def cut_power(self) -> None:
        """All that runs there is gone at once; the disk stays."""
        await self.host.cut_power()

    async def switch_on(self) -> None:
        """After :meth:`cut_power`."""
        await self.host.switch_on()
        self.start()

    async def cut_off(self) -> None:
        """No packet comes or goes any more, nobody is told; what it says to itself does."""
        await self.host.run("nft", "-f", "-", stdin=_CUT)

    async def join_up(self) -> None:
        """After :meth:`cut_off`."""
        await self.host.run("nft", "delete table inet cut")

    def wipe(self, *kept: str) -> None:
        """Its disk is another one, with our program and its configuration; ``kept``: what of its home a copy was of."""
        shutil.rmtree(self.node, ignore_errors=True)
        for path in self.home.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class ZoneWorld:
    """See the text above.  ``config``: what is more in the machines' configurations."""

    def __init__(self, lab: Lab, config: Mapping[str, Any] | None = None, nodes: Sequence[str] = ()) -> None:
        need("curl", "dnsmasq", "etcd", "etcdctl", "unshare", "nsenter")
        self.lab, self._config = lab, dict(config or {})
        internet = lab.network("5.1.1.0/24", name="internet")
        self.names, self.laptop = lab.host(internet, name="names"), lab.host(internet, name="laptop")
        home = lab.network("192.168.1.0/24", uplink=internet, nat=HOME, name="home")
        self.hosts = {name: lab.host(home if name == "ood3" else internet, name=name) for name in (*NAMES, *nodes)}
        self.oods: dict[str, Ood] = {}
        self._dns: Process | None = None

    def __getitem__(self, name: str) -> Ood:
        return self.oods[name]

    @property
    def owner(self) -> Path:
        """The home where the owner's key is."""
        return self.lab.directory / "owner"

    @asynccontextmanager
    async def up(self, *, timeout: float = 280) -> AsyncIterator[None]:
        """All machines are on and activated; no gateway runs."""
        async with self.lab.up(timeout=timeout):
            # Services have users of their own, who go through here.
            self.lab.directory.chmod(0o711)
            for name, host in self.hosts.items():
                self.oods[name] = Ood(host, self.lab.directory / name)
                self.oods[name].folder.mkdir(mode=0o711)
                self._configure(self.oods[name])
                await host.switch_on()
            await self.said("id", "owner", "new", "--name", "alice", "--words-to", str(self.lab.directory / "words"))
            for name in self.hosts:
                await self._ask(name)
            await self.sign("ood1", "--zone", ZONE)
            for name in ("ood2", "ood3"):
                await self.sign(name, "--ood")
            for name in (*(name for name in self.hosts if name not in NAMES), "ood1"):
                await self.sign(name)
            for name in self.hosts:
                await self.take(name)
            await self.publish()
            yield

    async def said(self, *words: str) -> Done:
        """What a command of ours says to the owner."""
        return await self.laptop.run(PROGRAM, "--home", str(self.owner), *words, timeout=60)

    async def activate(self, name: str) -> None:
        """A machine without a disk, in the place of what it was."""
        await self._ask(name)
        await self.sign(name, "--replace")
        await self.take(name)
        await self.publish()

    async def _ask(self, name: str) -> None:
        where = ("--net", "nat") if name == "ood3" else ("--ip", self.hosts[name].ip, "--rtcp-port", str(_DOOR))
        await self.oods[name].program("id", "new", "--name", name)
        await self.oods[name].program("id", "request", "--zone", ZONE, *where, "-o", self._file(name, "request"))

    async def sign(self, name: str, *more: str) -> None:
        """What the owner says to what the machine asked for."""
        words = ("--yes", "-o", self._file(name, "membership"))
        await self.said("node", "sign", self._file(name, "request"), *more, *words)

    async def take(self, name: str) -> None:
        """The machine takes what was signed."""
        await self.oods[name].program("node", "activate", "--bundle", self._file(name, "membership"), "--yes")

    def _file(self, name: str, what: str) -> str:
        return str(self.lab.directory / f"{name}.{what}")

    async def publish(self) -> None:
        """What the owner signed last is in the DNS."""
        if self._dns is not None:
            await self._dns.stop()
        said = (await self.said("id", "txt", "--format", "dnsmasq")).out.splitlines()
        records = [f"--{line}" for line in said if line.startswith("txt-record=")]
        hosts = [f"--host-record={name}.{ZONE},{self.hosts[name].ip}" for name in ("ood1", "ood2")]
        self._dns = dnsmasq(self.names, "--cache-size=0", f"--local=/{ZONE}/", *hosts, *records)
        await self.names.wait_for_port(53)

    def _configure(self, ood: Ood) -> None:
        config = {
            "log-level": "debug",
            "mixed-port": PROXY,
            "dns": {"enable": True, "use-system-hosts": False, "nameserver": [self.names.ip]},
            "rtcp": {"listen": _DOOR},
            "rules": ["MATCH,REJECT"],
        }
        if ood.name not in NAMES:
            config["node"] = False
        (ood.folder / "config.yaml").write_text(json.dumps(config | self._config))

    def start(self, *names: str) -> None:
        """Their gateways."""
        for name in names or self.oods:
            self.oods[name].start()

    async def booted(self, *names: str, timeout: float = 60) -> None:
        """Until they are in their zone."""
        for name in names or self.oods:
            ood = self.oods[name]

            async def is_booted(ood: Ood = ood) -> bool:
                return bool((await ood.status()).get("step") == "booted")

            try:
                await until(f"{name} is in its zone", is_booted, timeout=timeout)
            except CommandFailed as late:
                raise AssertionError(
                    "\n".join(f"--- {each.name}\n{each.said}" for each in self.oods.values())
                ) from late

    async def write(self, name: str, key: str, value: Any, *, timeout: float = 60) -> int:
        """Acknowledged by the machine ``name``, sooner or later; the revision."""
        with trio.fail_after(timeout):
            while True:
                try:
                    return await self.oods[name].set(key, value)
                except (CommandFailed, GatewayFault):
                    await trio.sleep(0.05)
