"""The picture of the story of an SN, set up by the programs that people use, as the guides say and with nothing else.

Alice has a box at home, behind two NATs, where nginx serves her photos.  An SN on a public machine has the domain
``sn.example``, which a root made for the story delegates to it, and gives her the name ``alice``; so does a spare one.
A private authority stands in for the public one.  Her laptop is in another house.  A phone has curl and a browser, and
nothing of ours.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import shlex
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
import trustme
from devices import PROGRAM
from netnslab import HOME, PORT_RESTRICTED, SYMMETRIC, Gateway, Host, Lab, Link
from netnslab.nameserver import dig, unbound
from netnslab.process import Done, Process, until

__all__ = ["BOX", "BY_SOCKS", "MARK", "Bundle", "Film", "Sn", "Story"]

_ZONE = "alice.sn.example"
BOX = f"ood1.{_ZONE}"
BY_SOCKS = ("--socks5-hostname", "127.0.0.1:7890")
MARK = "holidays at the sea"
"""What stands on the page."""
_AUTHORITY = "acme.example"
_FILMS = {"short": 10 << 20, "long": 24 << 20}
_RATE = 1 << 20
"""Bytes a second of who watches them slowly."""
_PUBLIC = "1.1.1.0/24"
"""Addresses that the program takes for public, as those for documentation are not.  The first is what a new SN asks."""
_NGINX = """daemon off; user root; worker_processes 1; pid FOLDER/pid; error_log FOLDER/error.log; events {}
http { log_format who '$proxy_protocol_addr $host $request'; access_log FOLDER/access.log who;
  types { text/html html; } root FOLDER/www; client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi; uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
  server { listen 127.0.0.1:80; location /slow/ { alias FOLDER/www/; limit_rate RATE; } }
  server { listen 127.0.0.1:8443 ssl proxy_protocol;
    ssl_certificate FOLDER/certificate.pem; ssl_certificate_key FOLDER/certificate.pem; } }
"""
_CUT = "table inet cut { chain way { type filter hook forward priority -400; ip daddr FAR drop; ip saddr FAR drop; }; }"


@dataclass
class Sn:
    """One that ``sn init`` has set up on ``host``."""

    host: Host
    domain: str
    did: str = ""

    @property
    def photos(self) -> str:
        """What visitors ask it for."""
        return f"photos.alice.{self.domain}"

    @property
    def entry(self) -> dict[str, Any]:
        """By which devices belong to it, as ``sn init`` prints it."""
        return {"peer": self.did, "at": f"{self.domain}:2980"}


@dataclass(frozen=True)
class Bundle:
    """A certificate as the gateway keeps it; ``secrets`` are parts of its key, as text and as bytes."""

    file: Path
    secrets: tuple[bytes, bytes]


class Story:
    """The places, and what people do there.  ``told``: what they waited for, in milliseconds.  ``link``: the cables of
    both houses to the world; None: good ones."""

    def __init__(self, lab: Lab, link: Link | None = None) -> None:
        self.lab = lab
        internet = lab.network(_PUBLIC, name="internet")
        self.resolver, self.root, self.authority, *sns = (
            lab.host(internet, name=name) for name in ("resolver", "root", "authority", "sn", "spare")
        )
        self.sn, self.spare = (Sn(host, f"{host.name}.example") for host in sns)
        carrier = lab.network("100.64.0.0/24", uplink=internet, nat=PORT_RESTRICTED, link=link, name="carrier")
        self.box = lab.host(lab.network("192.168.1.0/24", uplink=carrier, nat=HOME, name="home"), name="ood1")
        away = lab.network("192.168.7.0/24", uplink=internet, nat=HOME, link=link, name="away")
        mobile = lab.network("10.20.0.0/24", uplink=internet, nat=SYMMETRIC, name="mobile")
        self.laptop, self.phone = lab.host(away, name="laptop"), lab.host(mobile, name="phone")
        assert carrier.router and away.router and mobile.router
        self.home_outside, self.away, self.phone_outside = carrier.router.ip, away.router, mobile.router.ip
        self.told: dict[str, float] = {}

    def home(self, host: Host) -> Path:
        """Where a gateway there has its state."""
        return self.lab.directory / host.name

    async def said(self, host: Host, *words: str) -> Done:
        """What a command of ours says there, which has to succeed."""
        done = await host.run(PROGRAM, *words, "--home", str(self.home(host)), check=False, timeout=40)
        assert done.code == 0, f"cyfs-gateway {' '.join(words)} on {host.name}: {done.code}\n{done.out}{done.err}"
        return done

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """How long the block takes."""
        began = time.monotonic()
        yield
        self.told[what] = (time.monotonic() - began) * 1e3

    # What there is before anything of ours runs

    async def prepared(self, *sns: Sn) -> None:
        """Everybody is who they are, and has what they need beside our program."""
        owner = await self._owner()
        records = [record for sn in sns for record in await self._founded(sn, owner)]
        await self._names(records)
        await self._signs(self.box)
        await self._signs(self.laptop)
        boot = ("--ood", "ood1", "--sn", self.sn.domain)
        await self.said(self.box, "id", "sign", "boot", "--zone", _ZONE, *boot, "--yes")
        await self._photos(*(sn.photos for sn in sns))

    async def _owner(self) -> str:
        """Alice, at her box; she is who her DID says."""
        words = ("--words-to", str(self.lab.directory / "words"))
        said = await self.said(self.box, "id", "owner", "new", "--name", "alice", "--zone", _ZONE, *words)
        return next(line.split()[1] for line in said.out.splitlines() if line.startswith("did:"))

    async def _signs(self, device: Host) -> None:
        """A device of hers, asked for there, signed at the box, accepted there."""
        request, signed = self.lab.directory / f"{device.name}.request", self.home(self.box) / "identity"
        await self.said(device, "id", "new", "--name", device.name)
        await self.said(device, "id", "request", "--zone", _ZONE, "-o", str(request))
        await self.said(self.box, "id", "sign", "device", str(request), "--yes")
        await self.said(device, "id", "accept", str(signed / "devices" / f"{device.name}.jwt"), "--yes")
        await self.said(device, "id", "trust", str(signed / "owner.jwt"), "--yes")

    async def _founded(self, sn: Sn, owner: str) -> list[str]:
        """What has to be said above its domain."""
        words = ("sn", "init", sn.domain, "--address", sn.host.ip, "--owner", owner, "--json")
        told = json.loads((await self.said(sn.host, *words)).out)
        sn.did = told["did"]
        return list(told["records"])

    async def _names(self, records: list[str]) -> None:
        """A root that delegates, and a resolver that knows nothing but this root."""
        folder = self.lab.directory / "root"
        folder.mkdir()
        zone = ["@ 3600 SOA a.root. nobody. 1 3600 600 86400 5", "@ 3600 NS a.root.", f"a.root. 3600 A {self.root.ip}"]
        zone += [f"{_AUTHORITY}. 3600 A {self.authority.ip}", *records]
        (folder / "zone").write_text("$ORIGIN .\n" + "\n".join(zone) + "\n")
        (folder / "knot.conf").write_text(
            f"server:\n  rundir: {folder}\n  listen: {self.root.ip}@53\ndatabase:\n  storage: {folder}\n"
            f"zone:\n  - domain: .\n    file: {folder}/zone\n    zonefile-sync: -1\n    journal-content: none\n"
        )
        (folder / "hints").write_text(f". 3600 NS a.root.\na.root. 3600 A {self.root.ip}\n")
        self.root.start("knotd", "-c", str(folder / "knot.conf"))
        await self.root.wait_for_port(53, self.root.ip)
        lines = f'interface: {self.resolver.ip}\nroot-hints: "{folder}/hints"'
        await unbound(self.resolver, self.lab.directory, lines, wait_for=(53, self.resolver.ip))
        for host in (self.sn.host, self.spare.host, self.authority, self.box, self.laptop, self.phone):
            host.resolve_with(self.resolver.ip)

    async def _photos(self, *names: str) -> None:
        """nginx at the box: by https for visitors, plainly for her own devices; its certificate is of nobody's."""
        folder = self.lab.directory / "nginx"
        (folder / "www").mkdir(parents=True)
        (folder / "www" / "index.html").write_text(f"<title>photos</title><h1>{MARK}</h1>")
        for film, size in _FILMS.items():
            (folder / "www" / film).write_bytes(random.Random(size).randbytes(size))
        own = trustme.CA()
        own.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(folder / "certificate.pem"))
        own.cert_pem.write_to_path(str(folder / "own.pem"))
        (folder / "nginx.conf").write_text(_NGINX.replace("FOLDER", str(folder)).replace("RATE", str(_RATE)))
        words = ("-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"))
        self._nginx: Process = self.box.start("nginx", *words)
        await self.box.wait_for_port(80)

    @property
    def own(self) -> tuple[str, str]:
        """For curl: to believe the certificate that nginx has at first."""
        return "--cacert", str(self.lab.directory / "nginx" / "own.pem")

    # Our gateways

    def gateway(self, host: Host, config: dict[str, Any] | str) -> contextlib.AbstractAsyncContextManager[Gateway]:
        return host.gateway(config, home=self.home(host))

    def run(self, sn: Sn) -> contextlib.AbstractAsyncContextManager[Gateway]:
        """An SN, by the file that ``sn init`` wrote, to the letter."""
        return self.gateway(sn.host, (self.home(sn.host) / "sn.yaml").read_text())

    def at_home(self, *sns: Sn, **more: Any) -> dict[str, Any]:
        photos = {"name": "photos", "target": "tcp://127.0.0.1:8443", "port": 443, "public": True}
        photos |= {"hosts": [sn.photos for sn in sns], "proxy-protocol": True}
        web = {"name": "web", "target": "tcp://127.0.0.1:80", "allow": [f"ZONE,{_ZONE}"]}
        rtcp = {"sn": [{**sn.entry, "expose": ["photos"]} for sn in sns], "services": [photos, web]}
        return {"log-level": "debug", "rtcp": rtcp, "rules": ["MATCH,DIRECT"], **more}

    def away_from_home(self, *sns: Sn) -> dict[str, Any]:
        return {
            "log-level": "debug",
            "mixed-port": 7890,
            "rtcp": {"sn": [sn.entry for sn in sns]},
            "proxies": [{"name": "home", "type": "rtcp", "server": BOX}],
            "rules": [f"DOMAIN,{BOX},home", "MATCH,DIRECT"],
        }

    async def joins(self, gateway: Gateway, sn: Sn) -> None:
        """The box, as its owner does it once."""
        await self.said(self.box, "sn", "join", sn.did, "--name", "alice", "--yes")
        if sn is self.sn:
            boot = str(self.home(self.box) / "identity" / "boot.jwt")
            await self.said(self.box, "sn", "publish", sn.did, "alice", "--boot", boot, "--yes")
        await self.belongs(gateway, sn, leads=[sn.photos])

    async def belongs(self, gateway: Gateway, *sns: Sn, leads: Sequence[str] = ()) -> None:
        """Until it has tunnels to these SNs, which have nothing to say against it and lead there what they should."""
        dids = {sn.did for sn in sns}
        seen: list[Any] = []

        async def does() -> bool:
            seen[:] = (await gateway.api("/cyfs/status"))["memberships"]
            fine = [one["tunnel"] == "stands" and one["why"] == "" for one in seen if one["sn"] in dids]
            leading = {name for one in seen for name in one.get("leads", ())}
            return fine == [True] * len(dids) and leading >= set(leads)

        await self.in_time(f"{gateway.host.name} belongs to its SN", does, seen, gateway)

    async def reaches(self, gateway: Gateway, *sns: Sn) -> None:
        """Until it has a tunnel to each of them, whatever they think of it."""
        seen: list[Any] = []

        async def does() -> bool:
            seen[:] = (await gateway.api("/cyfs/status"))["memberships"]
            return {sn.did for sn in sns} <= {one["sn"] for one in seen if one["tunnel"] == "stands"}

        await self.in_time(f"{gateway.host.name} reaches its SN", does, seen, gateway)

    # Certificates

    async def certifies(self) -> None:
        """Pebble begins, which asks the resolver as every authority does."""
        folder = self.lab.directory / "authority"
        folder.mkdir()
        own = trustme.CA()
        own.cert_pem.write_to_path(str(folder / "trust.pem"))
        issued = own.issue_cert(_AUTHORITY)
        issued.private_key_pem.write_to_path(str(folder / "own.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / "own.pem"))
        ports = {"listenAddress": ":14000", "managementListenAddress": ":15000", "httpPort": 80, "tlsPort": 443}
        files = {"certificate": str(folder / "own.pem"), "privateKey": str(folder / "own.key")}
        (folder / "pebble.json").write_text(json.dumps({"pebble": {**ports, **files}}))
        words = ("-config", str(folder / "pebble.json"), "-dnsserver", f"{self.resolver.ip}:53")
        self.authority.start("pebble", *words, env={"PEBBLE_VA_NOSLEEP": "1"})
        for port in (14000, 15000):
            await self.authority.wait_for_port(port)
        roots = ("--cacert", str(folder / "trust.pem"), f"https://{_AUTHORITY}:15000/roots/0")
        self.trusted.write_text((await self.authority.run("curl", "-sS", *roots)).out)

    @property
    def trusted(self) -> Path:
        """Whose certificates a visitor believes."""
        return self.lab.directory / "authority" / "root.pem"

    @property
    def certificates(self) -> dict[str, Any]:
        """The section of that name, for the box."""
        trust = str(self.lab.directory / "authority" / "trust.pem")
        directory = f"https://{_AUTHORITY}:14000/dir"
        return {"agree": True, "directory": directory, "trust": trust, "names": [self.sn.photos]}

    async def certified(self, *gateways: Gateway) -> Bundle:
        """Until the box has its certificate."""
        seen: list[Any] = []

        async def has() -> bool:
            words = ("certs", "list", "--json", "--home", str(self.home(self.box)))
            done = await self.box.run(PROGRAM, *words, check=False)
            seen[:] = json.loads(done.out)["certificates"] if done.code == 0 else [{"state": done.err}]
            return [one["state"] for one in seen] == ["good"]

        await self.in_time("the box has a certificate", has, seen, *gateways)
        (file,) = (self.home(self.box) / "certificates").glob("*.pem")
        lines = file.read_text().splitlines()
        begin = next(number for number, line in enumerate(lines) if "PRIVATE KEY" in line)
        line = lines[begin + 1].encode()
        return Bundle(file, (line, base64.b64decode(line)[-12:]))

    def nginx_takes(self, bundle: Bundle) -> None:
        """From now on it shows this certificate."""
        shutil.copy(bundle.file, self.lab.directory / "nginx" / "certificate.pem")
        self._nginx.send(signal.SIGHUP)

    def visitors(self) -> set[str]:
        """Addresses of those who saw the photos, as nginx knows them."""
        lines = (self.lab.directory / "nginx" / "access.log").read_text().splitlines()
        return {line.split()[0] for line in lines if " photos." in line}

    # What people see

    async def in_time(self, what: str, condition: Any, seen: Any, *gateways: Gateway, seconds: float = 40) -> None:
        """``until``, that tells what was ``seen`` last and what the gateways have in their logs."""
        try:
            await until(what, condition, timeout=seconds)
        except Exception as late:
            logs = "\n".join(f"--- {each.host.name}\n{each.process.text()[-3000:]}" for each in gateways)
            raise AssertionError(f"{what}: {seen}\n{logs}") from late

    async def page(self, host: Host, url: str, *options: str) -> tuple[str, float]:
        """What curl gets, or says; and the milliseconds until the first byte."""
        words = ("curl", "-sS", "-m", "8", *options, "-w", "\n%{time_starttransfer}", url)
        done = await host.run(*words, check=False, timeout=20)
        text, _, seconds = done.out.rpartition("\n")
        return (text, float(seconds) * 1e3) if done.code == 0 else (done.err, 0.0)

    async def opens(self, host: Host, url: str, *options: str, gateways: Sequence[Gateway] = ()) -> None:
        """Until the page is there."""
        seen: list[tuple[str, float]] = []

        async def does() -> bool:
            seen[:] = [await self.page(host, url, *options)]
            return MARK in seen[0][0]

        await self.in_time(f"{host.name} sees {url}", does, seen, *gateways)

    async def browses(self, url: str, *, believes: bool = True) -> str:
        """What a browser on the phone shows; whether it ``believes`` the authority."""
        policies = self.lab.directory / "policies"
        managed = policies / "policies" / "managed"
        managed.mkdir(parents=True, exist_ok=True)
        root = "".join(line for line in self.trusted.read_text().splitlines() if "-----" not in line)
        (managed / "lab.json").write_text(json.dumps({"CACertificates": [root] if believes else []}))
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--timeout=20000"]
        quiet += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
        profile = f"--user-data-dir={self.lab.directory / f'profile-{believes}'}"
        words = shlex.join(["chromium", *quiet, profile, "--dump-dom", url])
        done = await self.phone.run(
            "sh", "-c", f"mount --bind {policies} /etc/chromium && exec {words}", check=False, timeout=60
        )
        return f"{done.out}\n{done.err}"

    async def goes(self, way: str | tuple[str, ...], *gateways: Gateway) -> dict[str, Any]:
        """Until the laptop reaches the box by such a way; what ``ping --explain`` says then."""
        seen: dict[str, Any] = {}

        async def does() -> bool:
            words = ("ping", BOX, "--explain", "--json", "--home", str(self.home(self.laptop)))
            done = await self.laptop.run(PROGRAM, *words, check=False, timeout=40)
            seen.clear()
            seen.update(json.loads(done.out) if done.code == 0 else {"way": "", "why": done.err})
            return str(seen["way"]).startswith(way)

        await self.in_time(f"the laptop reaches the box by {way}", does, seen, *gateways)
        return seen

    async def knows(self, name: str, address: str) -> None:
        """Until the resolver says so."""
        seen: list[list[str]] = []

        async def does() -> bool:
            seen[:] = [(await dig(self.phone, self.resolver.ip, name)).data]
            return seen == [[address]]

        await self.in_time(f"{name} is {address}", does, seen)

    # Bad days

    @contextlib.asynccontextmanager
    async def apart(self) -> AsyncIterator[None]:
        """Nothing passes between the two houses."""
        await self.away.run("nft", "-f", "-", stdin=_CUT.replace("FAR", self.home_outside))
        yield
        await self.away.run("nft", "delete", "table", "inet", "cut")


class Film:
    """What the laptop watches for some seconds, over whatever way there is by then."""

    def __init__(self, story: Story, name: str) -> None:
        self._story, self._name, self._file = story, name, story.lab.directory / "laptop.film"
        self._over = False
        self.stalled = 0.0
        """Seconds, the longest time without a byte since this was set to 0."""

    async def watch(self) -> None:
        """Raises when it breaks off, or is another one."""
        words = ("curl", "-sS", "-N", "-m", "90", *BY_SOCKS, "-o", str(self._file), f"http://{BOX}/slow/{self._name}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            await self._story.laptop.run(*words, timeout=100)
            nursery.cancel_scope.cancel()
        self._over = True
        assert self._file.read_bytes() == (self._story.lab.directory / "nginx" / "www" / self._name).read_bytes()

    async def _look(self) -> None:
        seen, last = 0, trio.current_time()
        while True:
            await trio.sleep(0.02)
            now = trio.current_time()
            self.stalled = max(self.stalled, now - last)
            if self._seen > seen:
                seen, last = self._seen, now

    @property
    def _seen(self) -> int:
        return self._file.stat().st_size if self._file.exists() else 0

    async def goes_on(self) -> None:
        """Until more of it is there than now."""
        before = self._seen
        assert not self._over, "the film is too short for this story"
        await until("the film goes on", lambda: self._seen > before + (1 << 18))
