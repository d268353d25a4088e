"""Networks, hosts and routers: declared as a picture, then brought up as network namespaces.

One namespace holds every network's bridge (the "switches"); each host and router has a namespace of its own.  Addresses
and routes follow from the picture: a network with an uplink has a router that is its first address, everyone's default
and (by its NAT) the end of its private addresses; what is not translated is routed, so IPv6 always is.

Nothing touches the machine's own namespace but the list of namespace names.  A name carries the maker's pid and start
time; a lab first removes what makers that are gone left behind, so a killed test run costs nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import trio

from netnslab import link as link_program
from netnslab.gateway import Gateway, open_gateway
from netnslab.link import Link, enter_namespace
from netnslab.machine import FIRST, enter
from netnslab.nat import Nat
from netnslab.process import CommandFailed, Done, Process, run, until

__all__ = ["Host", "Lab", "Network", "why_not"]

_T = TypeVar("_T")
_PREFIX = "nl-"
_Net = ipaddress.IPv4Network | ipaddress.IPv6Network
_TOOLS = ("ip", "nft")
FAILURES = Path(__file__).resolve().parent.parent / "failures"


def why_not() -> str | None:
    """Why no lab can be had on this machine; None when it can."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {' and '.join(missing)}: apt install iproute2 nftables"
    probe = f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"cannot make network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None


class Network:
    """A broadcast domain.  ``router`` is the host that joins it to its uplink; None at the top."""

    def __init__(self, lab: Lab, name: str, subnets: tuple[_Net, ...], uplink: Network | None, nat: Nat | None) -> None:
        self.name, self.subnets, self.uplink, self.nat = name, subnets, uplink, nat
        self.bridge = f"br{len(lab.networks)}"
        self.members: list[_Port] = []
        self.router: Host | None = None
        self._free = [net.hosts() for net in subnets]

    def next_addresses(self) -> list[str]:
        """One unused address of each subnet, with its prefix length."""
        return [f"{next(free)}/{net.prefixlen}" for free, net in zip(self._free, self.subnets, strict=True)]

    def reached_through(self) -> list[str]:
        """Prefixes that hosts of the uplink must send to our router: all that no NAT hides."""
        own = [str(net) for net in self.subnets if net.version == 6 or self.nat is None]
        below = (port.host.routes_for for port in self.members)
        inner = [
            p for network in below if network is not None and network is not self for p in network.reached_through()
        ]
        return own + [p for p in inner if ":" in p or self.nat is None]


class _Port:
    """One interface of a host on a network."""

    def __init__(self, host: Host, network: Network, device: str, addresses: list[str], link: Link | None) -> None:
        self.host, self.network, self.device, self.addresses, self.link = host, network, device, addresses, link
        self.plug = ""
        """The other end of its cable, at the switch."""


class Host:
    """A machine: a namespace, its addresses and the programs we run in it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.name = name
        self.ports: list[_Port] = []
        self.routes_for: Network | None = None
        """The network below, when this is its router."""
        self.namespace = f"{lab.prefix}{name}"
        self._lab = lab
        self._resolv_conf: Path | None = None
        self._first: Process | None = None
        self._first_pid = 0

    @property
    def addresses(self) -> list[str]:
        """All addresses, without prefix lengths, in order of the networks."""
        return [address.partition("/")[0] for port in self.ports for address in port.addresses]

    @property
    def ip(self) -> str:
        """The first IPv4 address."""
        return next(a for a in self.addresses if ":" not in a)

    @property
    def ip6(self) -> str:
        """The first IPv6 address."""
        return next(a for a in self.addresses if ":" in a)

    async def run(self, *argv: str, stdin: str = "", timeout: float = 20.0, check: bool = True) -> Done:
        """Run a command here to its end.  ``CommandFailed`` on a bad code or when it takes too long."""
        return await run(self.namespace, self._words(argv), stdin=stdin, timeout=timeout, check=check)

    def start(self, *argv: str, name: str | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Start a program here; it is killed when the lab goes down, if it still runs then."""
        name = name or Path(argv[0]).name
        log = self._lab.directory / f"{self.name}.{name}.{len(self._lab.processes)}.log"
        process = Process.start(self.namespace, self._words(argv), log=log, name=f"{name} on {self.name}", env=env)
        self._lab.processes.append(process)
        return process

    async def switch_on(self) -> None:
        """Have programs that are run or started from now on be on one machine, with no processes but its own."""
        first = self.start(*FIRST, name="machine")
        await first.says("ready")
        self._first, self._first_pid = first, _child(first.pid)

    async def cut_power(self) -> None:
        """Every process of the machine is gone at once, with all it had in memory."""
        assert self._first is not None
        await self._first.kill()
        # Its last process may outlive the one that was killed, for as long as the kernel takes to end it.
        await until(f"{self.name} is off", lambda: not Path(f"/proc/{self._first_pid}").exists())
        self._first = None

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """The plain thing, for talking over pipes; the caller owns it (the lab's end kills it all the same)."""
        return subprocess.Popen(["ip", "netns", "exec", self.namespace, *self._words(argv)], **options)

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run a plain function in a thread inside this namespace: sockets it makes stay here for ever."""
        return await trio.to_thread.run_sync(_inside, self.namespace, work)

    async def socket(self, family: int, kind: int) -> trio.socket.SocketType:
        """A trio socket of this host, for servers and clients written in the test itself."""
        return trio.socket.from_stdlib_socket(await self.call(lambda: socket.socket(family, kind)))

    async def wait_for_port(self, port: int, host: str = "127.0.0.1", *, timeout: float = 10.0) -> None:
        """Wait until a TCP connection from this host to ``host``:``port`` succeeds."""

        async def answers() -> bool:
            sock = await self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            with sock:
                try:
                    await sock.connect((host, port))
                except OSError:
                    return False
                return True

        await until(f"{host}:{port} accepts on {self.name}", answers, timeout=timeout)

    def resolve_with(self, *servers: str) -> None:
        """Programs run or started from now on see a resolv.conf with these name servers."""
        file = self._resolv_conf = self._lab.directory / f"{self.name}.resolv.conf"
        file.write_text("".join(f"nameserver {server}\n" for server in servers))

    async def mac(self, device: str = "eth0") -> str:
        """The hardware address of an interface."""
        return str(json.loads((await self.run("ip", "-j", "link", "show", device)).out)[0]["address"])

    async def unplug(self, device: str) -> None:
        """Pull the cable: the interface stays, its carrier goes."""
        await _ip(self._lab.switches, [f"link set {self._port(device).plug} down"])

    async def plug_in(self, device: str) -> None:
        """Put the cable back."""
        await _ip(self._lab.switches, [f"link set {self._port(device).plug} up"])

    async def renew(self, device: str) -> None:
        """Take an interface away and make it anew under the same name, hardware address, addresses and routes."""
        await self._lab.renew(self._port(device), await self.mac(device))

    async def move(self, device: str, network: Network) -> None:
        """Put the cable into another network: another address there, and another way out."""
        await self._lab.move(self._port(device), network)

    async def narrow(self, device: str, size: int) -> None:
        """Let the cable carry packets of so many bytes at most; larger ones vanish at the switch."""
        await _ip(self.namespace, [f"link set {device} mtu {size}"])
        await _ip(self._lab.switches, [f"link set {self._port(device).plug} mtu {size}"])

    def _port(self, device: str) -> _Port:
        return next(port for port in self.ports if port.device == device)

    def _words(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        if self._first is not None:
            return enter(self._first_pid, argv)
        if self._resolv_conf is None:
            return argv
        # Entering a network namespace with ip(8) also makes a mount namespace: nobody else sees this.
        return ("sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(self._resolv_conf), *argv)

    @contextlib.asynccontextmanager
    async def gateway(
        self, config: Mapping[str, Any] | str, *, home: Path | None = None, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[Gateway]:
        """The installed ``cyfs-gateway`` with this configuration, serving when the block begins, gone when it ends."""
        home = home or self._lab.directory / f"{self.name}.home"
        async with open_gateway(self, config, home, env) as gateway:
            yield gateway


class Lab:
    """The picture, and later the thing.  ``test`` names the directory kept when a test fails."""

    def __init__(self, test: str = "lab", failures: Path = FAILURES) -> None:
        self.prefix = f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(2)}-"
        self.networks: list[Network] = []
        self.hosts: list[Host] = []
        self.processes: list[Process] = []
        self._directory: Path | None = None
        self._kept = failures / "".join(c if c.isalnum() or c in "-_" else "_" for c in test)
        self._names = itertools.count(1)
        self.switches = f"{self.prefix}sw"
        """The namespace of all bridges."""

    @property
    def directory(self) -> Path:
        """Logs and homes of this run; it lives as long as the lab is up."""
        if self._directory is None:
            raise RuntimeError("the lab is not up")
        return self._directory

    def network(
        self,
        *subnets: str,
        uplink: Network | None = None,
        nat: Nat | None = None,
        link: Link | None = None,
        name: str | None = None,
    ) -> Network:
        """A new network.  With an ``uplink`` it also gets a router (``.router``), whose WAN cable may be a ``link``."""
        name = name or f"net{next(self._names)}"
        network = Network(self, name, tuple(ipaddress.ip_network(s) for s in subnets), uplink, nat)
        self.networks.append(network)
        if uplink is not None:
            router = self._new_host(f"{name}-router")
            self._plug(router, uplink, "wan", link)
            self._plug(router, network, "lan", None)
            network.router, router.routes_for = router, network
        return network

    def host(self, network: Network, *, name: str | None = None, link: Link | None = None, addresses: int = 1) -> Host:
        """A new host on a network, on ``eth0``, with so many addresses of each family."""
        host = self._new_host(name or f"h{next(self._names)}")
        self._plug(host, network, "eth0", link, addresses)
        return host

    @contextlib.asynccontextmanager
    async def up(self, *, timeout: float = 90.0) -> AsyncIterator[Lab]:
        """Build it, and take it down whatever happens; when the block raises, keep what explains it.

        After ``timeout`` seconds the block is cancelled and that is a failure too: ``trio.TooSlowError``.
        """
        sweep()
        shutil.rmtree(self._kept, ignore_errors=True)
        self._directory = Path(tempfile.mkdtemp(prefix=self.prefix))
        try:
            with trio.fail_after(timeout):
                await self._build()
                yield self
        except BaseException as fault:
            if not isinstance(fault, KeyboardInterrupt | SystemExit | GeneratorExit):
                with trio.CancelScope(shield=True), trio.move_on_after(20):
                    await self._keep()
            raise
        finally:
            self._tear_down()

    async def give_disk(self, folder: Path, size: int) -> None:
        """What is in ``folder`` is on a disk of its own, of ``size`` bytes, for machines switched on from now on."""
        await trio.to_thread.run_sync(_onto_a_disk, folder, size)

    def _new_host(self, name: str) -> Host:
        host = Host(self, name)
        self.hosts.append(host)
        return host

    def _plug(self, host: Host, network: Network, device: str, link: Link | None, count: int = 1) -> None:
        addresses = [address for _ in range(count) for address in network.next_addresses()]
        port = _Port(host, network, device, sorted(addresses, key=lambda a: ":" in a), link)
        host.ports.append(port)
        network.members.append(port)

    async def _build(self) -> None:
        names = [self.switches, *(host.namespace for host in self.hosts)]
        await _ip(None, [f"netns add {name}" for name in names])
        for name in names:
            await trio.to_thread.run_sync(_inside, name, _settle)
        switches = ["link set lo up"]
        for network in self.networks:
            switches += [f"link add {network.bridge} type bridge mcast_snooping 0", f"link set {network.bridge} up"]
        await _ip(self.switches, switches)
        await self._cables()
        for host in self.hosts:
            setup = [line for port in host.ports for line in _port_setup(port)]
            await _ip(host.namespace, ["link set lo up", *setup, *self._routes(host)])
        for network in self.networks:
            if network.router is not None and network.nat is not None:
                wan, lan = network.router.ports
                rules = network.nat.ruleset(_first4(wan), _first_inside(network, lan))
                await run(network.router.namespace, ["nft", "-f", "-"], stdin=rules)
        if shutil.which("tcpdump"):
            captures = [self._capture(network) for network in self.networks]
            for capture in captures:
                await capture.says("listening on")

    async def _cables(self) -> None:
        veths, plugs = [], []
        ports = [(port, f"p{n}") for n, port in enumerate(p for host in self.hosts for p in host.ports)]
        for port, plug in ports:
            port.plug = plug
            if port.link is None:
                near, far = f"{port.device} netns {port.host.namespace}", f"{plug} netns {self.switches}"
                veths.append(f"link add {near} type veth peer name {far}")
            else:
                await self._slow_cable(port, plug, port.link)
            plugs += [f"link set {plug} master {port.network.bridge}", f"link set {plug} up"]
        await _ip(None, veths)
        await _ip(self.switches, plugs)

    async def _slow_cable(self, port: _Port, plug: str, link: Link) -> None:
        ends = ((port.host.namespace, port.device), (self.switches, plug))
        cable = Process.start(
            None,
            [sys.executable, link_program.__file__, link.arguments(ends)],
            log=self.directory / f"{port.host.name}.{port.device}.link.log",
            name=f"link of {port.host.name}",
        )
        self.processes.append(cable)
        await cable.says("ready")

    async def renew(self, port: _Port, mac: str) -> None:
        """See ``Host.renew``; ordinary cables only."""
        near = f"{port.device} address {mac} netns {port.host.namespace}"
        await _ip(port.host.namespace, [f"link del {port.device}"])
        await _ip(None, [f"link add {near} type veth peer name {port.plug} netns {self.switches}"])
        await _ip(self.switches, [f"link set {port.plug} master {port.network.bridge}", f"link set {port.plug} up"])
        await _ip(port.host.namespace, _port_setup(port) + self._routes(port.host))

    async def move(self, port: _Port, network: Network) -> None:
        """See ``Host.move``."""
        port.network.members.remove(port)
        network.members.append(port)
        port.network, port.addresses = network, sorted(network.next_addresses(), key=lambda a: ":" in a)
        await _ip(port.host.namespace, [f"link set {port.device} down", f"addr flush dev {port.device}"])
        await _ip(self.switches, [f"link set {port.plug} master {network.bridge}"])
        await _ip(port.host.namespace, _port_setup(port) + self._routes(port.host))

    def _routes(self, host: Host) -> list[str]:
        lines = []
        for port in host.ports:
            router = port.network.router
            if router is not None and router is not host:
                lines += [f"route replace default via {_via(router, port.network, f)}" for f in _families(port.network)]
            for neighbour in port.network.members:
                below = neighbour.host.routes_for
                if below is None or below is port.network or neighbour.host is host:
                    continue
                for prefix in below.reached_through():
                    version = 6 if ":" in prefix else 4
                    if version in _families(port.network):
                        lines.append(f"route replace {prefix} via {_via(neighbour.host, port.network, version)}")
        return lines

    def _capture(self, network: Network) -> Process:
        """Record what crosses a network.  Short and bounded: bulk transfers are not worth their disk."""
        words = ["tcpdump", "-i", network.bridge, "--immediate-mode", "-U", "-s", "128", "-c", "100000", "-Z", "root"]
        words += ["-w", str(self.directory / f"{network.name}.pcap")]
        log = self.directory / f"{network.name}.tcpdump.log"
        capture = Process.start(self.switches, words, log=log, name=f"capture of {network.name}")
        self.processes.append(capture)
        return capture

    async def _keep(self) -> None:
        """Copy logs and captures, and write down what each kernel thinks: for whoever asks why the test failed."""
        self._kept.mkdir(parents=True)
        questions = ("ip addr", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all")
        for host in self.hosts:
            with (self._kept / f"{host.name}.state.txt").open("w") as out:
                for question in (*questions, "nft list ruleset", "ss -anptu"):
                    with contextlib.suppress(CommandFailed):
                        out.write(f"$ {question}\n{(await host.run(*question.split(), check=False)).out}\n")
        for file in self.directory.rglob("*"):
            if file.is_file() and file.suffix in {".log", ".pcap", ".yaml"}:
                shutil.copy(file, self._kept / "--".join(file.relative_to(self.directory).parts))

    def _tear_down(self) -> None:
        for process in reversed(self.processes):
            process.kill_now()
        self.processes.clear()
        for name in (self.switches, *(host.namespace for host in self.hosts)):
            _remove_namespace(name)
        if self._directory is not None:
            _remove_directory(self._directory)
            self._directory = None


def _child(pid: int) -> int:
    """Of a process that has one."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def sweep() -> list[str]:
    """Remove what labs whose process is gone left: namespaces, programs in them, directories.  Returns the names."""
    gone = []
    for place in (Path("/run/netns"), Path(tempfile.gettempdir())):
        for file in sorted(place.glob(f"{_PREFIX}*-*-*")):
            pid, started, _ = file.name.removeprefix(_PREFIX).split("-", 2)
            if not pid.isdigit() or _started(int(pid)) != started:
                if file.is_dir():
                    _remove_directory(file)
                else:
                    _remove_namespace(file.name)
                gone.append(file.name)
    return gone


def _started(pid: int) -> str:
    """When a process began, in kernel ticks: with its pid this names it for as long as the machine is up."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone"
    return stat.rpartition(")")[2].split()[19]


def _onto_a_disk(folder: Path, size: int) -> None:
    before = folder.with_suffix(".before")
    folder.rename(before)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(folder)], check=True)
    shutil.copytree(before, folder, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(before)


def _remove_directory(directory: Path) -> None:
    """With the disks that are mounted there."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if (place := line.split()[1]).startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def _remove_namespace(name: str) -> None:
    if not Path(f"/run/netns/{name}").exists():
        return
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    for pid in pids.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), 9)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _inside(namespace: str, work: Callable[[], _T]) -> _T:
    """Run ``work`` in a thread of its own inside the namespace; the thread ends, so nobody inherits where it was."""
    result: list[_T] = []
    fault: list[BaseException] = []

    def body() -> None:
        try:
            enter_namespace(namespace)
            result.append(work())
        except BaseException as exc:
            fault.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if fault:
        raise fault[0]
    return result[0]


def _settle() -> None:
    """Kernel settings of a fresh namespace: forward, and use IPv6 addresses without a second of doubt."""
    for key, value in (
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/ping_group_range", "0 2147483647"),
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
    ):
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net", key).write_text(value)


async def _ip(namespace: str | None, lines: list[str]) -> None:
    where = ["-n", namespace] if namespace else []
    await run(None, ["ip", *where, "-batch", "-"], stdin="\n".join(lines) + "\n")


def _port_setup(port: _Port) -> list[str]:
    addresses = [f"addr add {a} dev {port.device}{' nodad' if ':' in a else ''}" for a in port.addresses]
    return [f"link set {port.device} up", *addresses]


def _families(network: Network) -> list[int]:
    return [net.version for net in network.subnets]


def _via(host: Host, network: Network, family: int) -> str:
    port = next(port for port in host.ports if port.network is network)
    return next(a.partition("/")[0] for a in port.addresses if (":" in a) == (family == 6))


def _first4(port: _Port) -> str:
    return next(a.partition("/")[0] for a in port.addresses if ":" not in a)


def _first_inside(network: Network, lan: _Port) -> str:
    others = [port for port in network.members if port is not lan]
    return _first4(others[0] if others else lan)
