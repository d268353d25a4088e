"""Who is who on a bad network: an owner who is never online, devices at home, a stranger in a café whose router lies.

The owner signs on a machine without a cable; documents travel as files.  ``ood1`` publishes them, as DNS records and by
HTTPS.  The stranger knows the owner's key, or not even that, and all of its DNS goes through the café, whatever server
it asks.  The thief has a certificate that the stranger's programs trust: only signatures stand between them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from netnslab import HOME, Host, Lab, Process, need
from netnslab.nameserver import NameServer, Tls, dig, dnsmasq, name_server
from netnslab.process import Done, until
from netnslab.traffic import http_server

ZONE, OOD1, OOD2 = "home.example", "ood1.home.example", "ood2.home.example"
_BIN = Path(sys.prefix) / "bin"


class World:
    """``desk`` with the owner's key, ``ood1`` and ``ood2`` at home; ``stranger`` behind ``cafe``; a ``thief``."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        internet = lab.network("198.51.100.0/24", name="internet")
        self.thief = lab.host(internet, name="thief")
        home = lab.network("192.0.2.0/24", uplink=internet, name="home")
        names = ("ood1", "ood2", "desk", "new-desk")
        self.ood1, self.ood2, self.desk, self.new_desk = (lab.host(home, name=name) for name in names)
        coffee = lab.network("192.168.7.0/24", uplink=internet, nat=HOME, name="coffee")
        assert coffee.router is not None
        self.cafe: Host = coffee.router
        self.stranger = lab.host(coffee, name="stranger")
        self._dns: Process | None = None

    def home(self, host: Host) -> Path:
        return self.lab.directory / f"{host.name}.id"

    def mail(self, name: str) -> Path:
        """Where files travel."""
        return self.lab.directory / f"mail.{name}"

    async def id(self, host: Host, *words: str, code: int = 0) -> Done:
        """``cyfs-gateway id`` there."""
        return await self._ran(host, "cyfs-gateway", "id", *words, "--home", str(self.home(host)), code=code)

    async def who(self, name: str, *words: str, code: int = 0, server: str = "") -> Done:
        """What the stranger finds out."""
        options = (*words, "--timeout", "2", "--home", str(self.home(self.stranger)))
        options += (f"@{server}",) if server else ()
        return await self._ran(self.stranger, "cyfs-ns", "resolve", name, "--trust", *options, code=code)

    async def found(self, name: str, *words: str, code: int = 0, server: str = "") -> dict[str, Any]:
        found = json.loads((await self.who(name, "--json", *words, code=code, server=server)).out)
        assert isinstance(found, dict)
        return found

    def kept(self) -> list[Path]:
        """What the stranger has written down for the days when nobody can be asked."""
        return list((self.home(self.stranger) / "names/kept").glob("*"))

    async def _ran(self, host: Host, program: str, *words: str, code: int) -> Done:
        env = [f"{name}={value}" for name, value in self.environment.items()]
        done = await host.run("env", *env, str(_BIN / program), *words, check=False)
        assert done.code == code, f"{program} {words}: {done.code}\n{done.out}{done.err}"
        return done

    async def makes_an_owner(self, host: Host, name: str) -> Path:
        """Returns the document that others pin."""
        words = str(self.mail(f"{host.name}.words"))
        await self.id(host, "owner", "new", "--name", name, "--zone", ZONE, "--words-to", words)
        return self.home(host) / "identity" / "owner.jwt"

    async def asks(self, device: Host) -> None:
        await self.id(device, "request", "--zone", ZONE, "-o", str(self.mail(f"{device.name}.request")))

    async def signs(self, owner: Host, *devices: Host) -> None:
        """What the devices ask for, and the zone with both at their addresses."""
        for device in devices:
            await self.id(owner, "sign", "device", str(self.mail(f"{device.name}.request")), "--yes")
            shutil.copy(self.home(owner) / "identity/devices" / f"{device.name}.jwt", self.mail(f"{device.name}.jwt"))
        for what in ("boot", "zone"):
            oods = ("--ood", f"ood1:{self.ood1.ip}", "--ood", f"ood2:{self.ood2.ip}")
            await self.id(owner, "sign", what, "--zone", ZONE, *oods, "--yes")
        shutil.copy(self.home(owner) / "identity/zone.jwt", self.mail("zone.jwt"))

    async def accepts(self, device: Host) -> None:
        await self.id(device, "accept", str(self.mail(f"{device.name}.jwt")), "--yes")

    async def records(self, owner: Host) -> list[str]:
        """What is to be published, as dnsmasq's options."""
        said = (await self.id(owner, "txt", "--format", "dnsmasq")).out
        return [f"--{line}" for line in said.splitlines() if line.startswith("txt-record=")]

    @contextlib.asynccontextmanager
    async def lived_in(self) -> AsyncIterator[NameServer]:
        """The owner has signed, ``ood1`` publishes, and the café tells what it hears."""
        async with self.lab.up(), trio.open_nursery() as nursery:
            self.tls = Tls(self.lab.directory)
            self.environment = self.tls.environment
            self.certificate = self.tls.certificate(ZONE, OOD1, OOD2, self.ood1.ip)
            for desk in (self.desk, self.new_desk):
                await desk.unplug("eth0")
            self.owner = await self.makes_an_owner(self.desk, "alice")
            for device in (self.ood1, self.ood2):
                await self.id(device, "new", "--name", device.name)
                await self.asks(device)
            await self.signs(self.desk, self.ood1, self.ood2)
            for device in (self.ood1, self.ood2):
                await self.accepts(device)
            for host in (self.ood1, self.ood2, self.thief):
                await nursery.start(http_server, host, host.ip, 80)
            await self.intercept()
            await self.tells_the_truth()
            self.stranger.resolve_with(self.cafe.addresses[1])
            async with name_server(
                self.ood1, await self.published(), self.home(self.ood1), env=self.environment
            ) as server:
                yield server
            nursery.cancel_scope.cancel()

    async def published(self) -> dict[str, Any]:
        """The configuration of the name server on ``ood1``; what the owner signed last is put where it serves it."""
        await self.id(self.ood1, "trust", str(self.owner), "--yes")
        local = self.home(self.ood1) / "names/local"
        local.mkdir(exist_ok=True)
        shutil.copy(self.mail("zone.jwt"), local / "zone.jwt")
        text = (await self.id(self.desk, "txt", "--format", "cyfs-ns")).out
        config = yaml.safe_load(text)
        addresses = [f"{ZONE} A {self.ood1.ip}", f"{OOD1} A {self.ood1.ip}", f"{OOD2} A {self.ood2.ip}"]
        config["dns"] |= {
            "enable": True,
            "listen": ":53",
            "listen-tls": ":853",
            "listen-https": ":443",
            "tls-cert": str(self.certificate),
            "tls-key": str(self.certificate),
            "allow-from": ["0.0.0.0/0"],
            "servers": [f"/{ZONE}/"],
            "records": [*config["dns"]["records"], *addresses],
        }
        return config

    async def intercept(self) -> None:
        """Every DNS question in the café is for its router, whatever server it was meant for."""
        rules = """table ip cafe {
            chain questions {
                type nat hook prerouting priority dstnat;
                iifname "lan" udp dport 53 redirect
                iifname "lan" tcp dport 53 redirect
            }
        }"""
        await self.cafe.run("nft", "-f", "-", stdin=rules)

    async def tells_the_truth(self) -> None:
        await self.tells(f"--server=/{ZONE}/{self.ood1.ip}")

    async def tells(self, *options: str) -> None:
        """What the café's name server says from now on."""
        if self._dns is not None:
            await self._dns.stop()
        self._dns = dnsmasq(self.cafe, "--cache-size=0", "--no-negcache", *options)
        await self.cafe.wait_for_port(53)

    nothing_else = f"--local=/{ZONE}/"
    """For the café: of the zone there is nothing that it was not told to tell."""

    def forged(self, host: Host) -> str:
        """For the café: the zone, and all in it, is at ``host``."""
        return f"--address=/{ZONE}/{host.ip}"

    @contextlib.asynccontextmanager
    async def own_name_server(self) -> AsyncIterator[NameServer]:
        """The stranger's programs ask one of their own, which asks the café."""
        config = {"dns": {"enable": True, "listen": "127.0.0.1:53", "nameserver": [self.cafe.addresses[1]]}}
        async with name_server(self.stranger, config, self.home(self.stranger), env=self.environment) as server:
            self.stranger.resolve_with("127.0.0.1")
            yield server
        self.stranger.resolve_with(self.cafe.addresses[1])

    async def key(self, device: Host) -> str:
        """The public key that ``device`` says it has."""
        return (await self.id(device, "export", "--did")).out.strip().removeprefix("did:dev:")

    async def told_by_dns(self, name: str) -> tuple[list[str], str]:
        """What the stranger's own name server answers, and the level beside it."""
        answer = await dig(self.stranger, "127.0.0.1", name, "A", "+time=15")
        level = re.search(r"EDE: 0 \(Other\): \(trust=([a-z-]+):", answer.text)
        return answer.data, level[1] if level else ""

    async def fetched(self, path: str, *options: str) -> str:
        """What stands at the zone's web host, wherever the stranger finds it."""
        words = ("curl", "-sS", "-m", "8", "--cacert", str(self.tls.authority), *options, f"https://{ZONE}{path}")
        return (await self.stranger.run(*words)).out.strip()

    async def openssl_verifies(self, token: str) -> bool:
        """Whether the real program finds the owner's signature below a token (RFC 7515)."""
        key, signed, signature = (self.mail(f"openssl.{part}") for part in ("key", "signed", "signature"))
        secret = self.owner.with_name("owner.pem")
        await self.desk.run("openssl", "pkey", "-in", str(secret), "-pubout", "-out", str(key))
        text, _, last = token.rpartition(".")
        signed.write_text(text)
        signature.write_bytes(base64.urlsafe_b64decode(last + "=="))
        words = ("-verify", "-pubin", "-inkey", str(key), "-rawin", "-in", str(signed), "-sigfile", str(signature))
        return (await self.stranger.run("openssl", "pkeyutl", *words, check=False)).code == 0

    async def resigned(self, thief: Host) -> list[str]:
        """Records of the same zone by another owner, with devices of their own."""
        await self.makes_an_owner(thief, "mallory")
        for device in (self.ood1, self.ood2):
            await self.id(thief, "sign", "device", str(self.mail(f"{device.name}.request")), "--yes")
        await self.id(thief, "sign", "boot", "--zone", ZONE, "--ood", f"ood1:{thief.ip}", "--yes")
        return await self.records(thief)

    async def serves(self, host: Host, files: dict[str, str]) -> None:
        """These files below ``/.well-known``, by a web server with a certificate for the zone."""
        root = self.lab.directory / f"{host.name}.web"
        (root / ".well-known").mkdir(parents=True)
        for name, text in files.items():
            (root / ".well-known" / name).write_text(text)
        start = 'cd "$0" && exec openssl s_server -quiet -accept 443 -cert "$1" -key "$1" -WWW'
        host.start("sh", "-c", start, str(root), str(self.certificate), name="openssl")
        await host.wait_for_port(443)

    async def reached(self, name: str) -> str:
        """Where the stranger's browser gets to."""
        words = ("curl", "-s", "-m", "8", "-o", "/dev/null", "-w", "%{remote_ip}", f"http://{name}/")
        return (await self.stranger.run(*words, check=False)).out


def said(found: dict[str, Any], kind: str, about: str = OOD1) -> dict[str, str]:
    """Values of one kind, each with its level."""
    claims = (claim for claim in found["claims"] if claim["kind"] == kind and claim["about"] == f"did:web:{about}")
    return {claim["value"]: claim["trust"] for claim in claims}


def one_letter_other(text: str, only: str = "") -> str:
    """Changed in the signature at the end, if it is a text of this kind."""
    at = len(text) - 10
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] if only in text else text


@pytest.fixture
def world(lab):
    need("curl", "dig", "dnsmasq", "kdig", "openssl")
    return World(lab)


async def test_whoever_carries_it_the_owners_word_is_believed(world):
    stranger = world.stranger
    async with world.lived_in():
        met = await world.found(OOD1)
        assert met["trust"] == "plain-dns"
        assert said(met, "key") == {await world.key(world.ood1): "plain-dns"}
        assert (await world.found(OOD1, server=f"tls://{world.ood1.ip}"))["trust"] == "auth-channel"
        refused = await world.who(OOD1, "--min", "owner-signed", code=1)
        assert f"did:web:{OOD1} is known by plain-dns only, owner-signed was asked for" in refused.out
        assert not world.kept(), "nothing was proven"

        await world.id(stranger, "trust", str(world.owner), "--yes")
        for name, device in ((OOD1, world.ood1), (OOD2, world.ood2)):
            found = await world.found(name, "--min", "owner-signed")
            assert (found["outcome"], found["trust"]) == ("found", "owner-signed")
            assert said(found, "key", name) == {await world.key(device): "owner-signed"}
            assert said(found, "address", name) == {device.ip: "owner-signed"}
        tree = (await world.who(OOD1, "--min", "owner-signed")).out
        assert f"owner-signed: ood1 is at {world.ood1.ip}" in tree
        assert f"host-snapshot: did:web:{ZONE} signs with" in tree
        assert f"plain-dns: published in TXT records of {ZONE} (udp://{world.cafe.addresses[1]}:53" in tree

        # A café that lets no TXT record through.
        await world.tells(world.forged(world.ood1), world.nothing_else)
        found = await world.found(ZONE, "--min", "owner-signed")
        assert said(found, "address", ZONE) == {device.ip: "owner-signed" for device in (world.ood1, world.ood2)}
        assert {claim["evidence"]["source"] for claim in found["claims"] if claim["kind"] == "document"} == {
            f"https://{ZONE}/.well-known/did.json"
        }
        await world.tells_the_truth()

        # The same by programs that know nothing of us.
        seen = await stranger.run("kdig", f"@{world.ood1.ip}", "+short", ZONE, "TXT")
        published = (await world.id(world.desk, "txt", "--format", "records")).out
        assert {text.replace('" "', "").strip('"') for text in seen.out.split("\n") if text} == {
            line.split("\t")[2] for line in published.splitlines()
        }
        for name in (OOD1, OOD2):
            token = await world.fetched(f"/1.0/identifiers/did:web:{name}", "-H", "accept: application/jwt")
            assert await world.openssl_verifies(token)
        assert not await world.openssl_verifies(one_letter_other(token))


async def test_a_liar_on_the_way_is_told_apart(world):
    stranger, thief = world.stranger, world.thief
    async with world.lived_in():
        await world.id(stranger, "trust", str(world.owner), "--yes")
        forged = (world.forged(thief), world.nothing_else)
        honest = await world.records(world.desk)
        damaged = [one_letter_other(record, ",DEV=") for record in honest]
        resigned = await world.resigned(thief)

        await world.tells(*forged)
        assert said(await world.found(OOD1), "address") == {thief.ip: "plain-dns"}, "good for dialling, and no more"
        too_weak = await world.who(OOD1, "--min", "key-proven", code=1)
        assert "is known by plain-dns only, key-proven was asked for" in too_weak.out
        await world.tells(*forged, *resigned)
        refused = await world.who(OOD1, code=1)
        assert "boot document: not signed by" in refused.out
        assert "device-mini document: not signed by" in refused.out
        assert f"says the key of did:web:{ZONE} is" in refused.out
        assert f"address: {thief.ip}" not in refused.out, "and where DNS has it counts no more"
        assert not world.kept()
        async with world.own_name_server():
            assert (await world.told_by_dns(OOD1))[0] == []
            assert await world.reached(OOD1) == ""
        await world.tells(*forged, *damaged)
        found = await world.found(OOD1)
        assert said(found, "key") == {}, "its document is damaged"
        assert said(found, "address") == {world.ood1.ip: "owner-signed"}, "the zone's says so"
        assert any("device-mini document: not signed by" in fault for fault in found["faults"])

        await world.tells_the_truth()
        key = await world.key(world.ood1)
        assert said(await world.found(OOD1), "key") == {key: "owner-signed"}
        for lies in ((), resigned):
            await world.tells(*forged, *lies)
            found = await world.found(OOD1)
            assert said(found, "key") == {key: "host-snapshot"}
            assert said(found, "address") == {world.ood1.ip: "host-snapshot"}
            await world.who(OOD1, "--min", "owner-signed", code=1)
        async with world.own_name_server():
            assert await world.told_by_dns(OOD1) == ([world.ood1.ip], "host-snapshot")
            assert await world.reached(OOD1) == world.ood1.ip
        assert await world.reached(OOD1) == thief.ip, "as everybody else is"
        await world.tells_the_truth()
        async with world.own_name_server():
            assert await world.told_by_dns(OOD1) == ([world.ood1.ip], "owner-signed")


async def test_a_device_has_a_new_key_and_nothing_goes_back(world):
    stranger, thief, ood1 = world.stranger, world.thief, world.ood1
    async with world.lived_in() as server:
        await world.id(stranger, "trust", str(world.owner), "--yes")
        lost = await world.key(ood1)
        assert said(await world.found(OOD1, "--min", "owner-signed"), "key") == {lost: "owner-signed"}
        old_records, old_zone = await world.records(world.desk), world.mail("zone.jwt").read_text().strip()
        old_device = world.mail("ood1.jwt").read_text()

        await world.id(ood1, "rotate", "--yes")
        await world.asks(ood1)
        await world.signs(world.desk, ood1)
        await world.accepts(ood1)
        server.reload(await world.published())
        new = await world.key(ood1)
        assert new != lost

        async def heard() -> bool:
            return said(await world.found(OOD1), "key") == {new: "owner-signed"}

        await until("the stranger hears of the new key", heard, timeout=30)

        await world.tells(world.forged(ood1), world.nothing_else)
        new_zone = world.mail("zone.jwt").read_text().strip()
        assert await world.fetched("/.well-known/did.json", "-H", "accept: application/jwt") == new_zone
        await world.found(ZONE, "--min", "owner-signed")

        await world.tells(world.forged(thief), world.nothing_else, *old_records)
        refused = (await world.who(OOD1, "--min", "owner-signed", code=1)).out
        assert f"device-mini document of did:web:{OOD1}: older than one we have believed" in refused
        assert f"boot document of did:web:{ZONE}: older than one we have believed" in refused
        assert lost not in refused

        # By HTTPS, with a certificate that everybody trusts.
        await world.tells(world.forged(thief), world.nothing_else)
        await world.serves(thief, {"did.json": old_zone, "ood1": old_device, "zone": old_zone})
        assert await world.fetched("/.well-known/zone") == old_zone
        refused = (await world.who(ZONE, "--min", "owner-signed", code=1)).out
        assert f"zone document of did:web:{ZONE}: older than one we have believed" in refused
        assert f"did:web:{ZONE} is known by host-snapshot only" in refused
        assert said(await world.found(OOD1), "key") == {new: "host-snapshot"}


async def test_an_owner_whose_key_was_stolen_begins_anew(world):
    stranger = world.stranger
    async with world.lived_in() as server:
        await world.id(stranger, "trust", str(world.owner), "--yes")
        await world.found(OOD1, "--min", "owner-signed")
        async with world.own_name_server():
            assert await world.told_by_dns(OOD1) == ([world.ood1.ip], "owner-signed")
            await world.id(stranger, "trust", ZONE, "--revoke", "--yes")

            async def ended() -> bool:
                return (await dig(stranger, "127.0.0.1", OOD1)).status == "NXDOMAIN"

            await until("the name server forgets what it believed", ended)
        # The thief signs as the owner would.
        shutil.copytree(world.home(world.desk), world.home(world.thief))
        await world.signs(world.thief, world.ood1, world.ood2)
        await world.tells(world.forged(world.thief), *await world.records(world.thief))
        for _ in range(2):
            refused = (await world.who(OOD1, code=1)).out
            assert "its owner ended it" in refused
            assert f"boot document: the key of did:web:{ZONE} is revoked on this machine" in refused
            async with world.own_name_server():
                assert (await dig(stranger, "127.0.0.1", OOD1)).status == "NXDOMAIN"
            await world.tells_the_truth()

        world.desk = world.new_desk
        world.owner = await world.makes_an_owner(world.desk, "alice")
        for device in (world.ood1, world.ood2):
            await world.id(device, "rotate", "--yes")
            await world.asks(device)
        await world.signs(world.desk, world.ood1, world.ood2)
        for device in (world.ood1, world.ood2):
            await world.id(device, "trust", str(world.owner), "--yes")
            await world.accepts(device)
        server.reload(await world.published())
        assert "is revoked on this machine" in (await world.who(OOD1, code=1)).out, "whoever the new owner is"
        await world.id(stranger, "trust", str(world.owner), "--yes")

        async def heard() -> bool:
            return said(await world.found(OOD1), "key") == {await world.key(world.ood1): "owner-signed"}

        await until("the stranger hears of the new owner's devices", heard, timeout=30)


async def test_a_home_goes_off_line_and_comes_back(world):
    stranger, ood1 = world.stranger, world.ood1
    async with world.lived_in():
        await world.id(stranger, "trust", str(world.owner), "--yes")
        key = await world.key(ood1)
        assert said(await world.found(OOD1), "key") == {key: "owner-signed"}
        async with world.own_name_server():
            assert await world.told_by_dns(OOD1) == ([ood1.ip], "owner-signed")
            await ood1.unplug("eth0")
            assert await world.told_by_dns(OOD1) == ([ood1.ip], "owner-signed"), "for as long as the records last"

        async def by_the_command() -> None:
            weak = await world.found(OOD1, "--min", "owner-signed", code=1, server=world.cafe.addresses[1])
            why = f"did:web:{OOD1} is known by host-snapshot only, owner-signed was asked for"
            assert (weak["outcome"], weak["why"]) == ("tooweak", why)
            assert said(weak, "key") == {key: "host-snapshot"}
            assert said(weak, "address") == {ood1.ip: "host-snapshot"}
            assert any("no name server answered" in fault for fault in weak["faults"])

        async with world.own_name_server(), trio.open_nursery() as nursery:
            nursery.start_soon(by_the_command)
            assert await world.told_by_dns(OOD1) == ([ood1.ip], "host-snapshot"), "with no memory but the disk"
        await ood1.plug_in("eth0")

        async def back() -> bool:
            return said(await world.found(OOD1), "key") == {key: "owner-signed"}

        await until("the owner's word is heard again", back, timeout=30)
        async with world.own_name_server():
            assert await world.told_by_dns(OOD1) == ([ood1.ip], "owner-signed")


async def test_an_old_zone_document_does_not_bring_an_old_address_back(world):
    """Whoever has the home's old address now has its old documents, too: they are public."""
    stranger, moved = world.stranger, "192.0.2.77"
    async with world.lived_in():
        await world.id(stranger, "trust", str(world.owner), "--yes")
        await world.found(OOD1, "--min", "owner-signed")
        old = f"DID={world.mail('zone.jwt').read_text().strip()};"
        replayed = ",".join([f"--txt-record={ZONE}", *(old[at : at + 250] for at in range(0, len(old), 250))])
        await world.id(world.desk, "sign", "boot", "--zone", ZONE, "--ood", f"ood1:{moved}", "--ood", "ood2", "--yes")
        new = await world.records(world.desk)
        for records, level in (((*new, replayed), "owner-signed"), ((replayed,), "host-snapshot")):
            await world.tells(world.nothing_else, *records)
            found = await world.found(OOD1)
            assert said(found, "address") == {moved: level}
            assert any("its machines are superseded by the boot document" in fault for fault in found["faults"])
