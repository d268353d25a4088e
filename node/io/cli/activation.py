"""``node activate``, ``sign``, ``remove``, ``status``, ``leave``: who belongs to a zone."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import facts, identity_home_option, json_option, print_json
from cyfs_ns.io.cli.identifying import (
    day,
    days_option,
    did_of,
    owner_option,
    owner_store,
    put_out,
    put_request,
    sure,
    telling,
    writing,
    yes_option,
    zone_of,
    zone_option,
)

if TYPE_CHECKING:
    from cyfs_ns.identity.did import Did
    from cyfs_ns.identity.documents import OwnerDoc, ZoneDoc
    from cyfs_ns.identity.issue import Issuer
    from cyfs_ns.identity.keys import SecretKey
    from cyfs_ns.identity.request import DeviceRequest
    from cyfs_ns.io.trusted.keystore import OwnerStore
    from node.activation.signing import Signed
    from node.io.activation.desk import Desk
    from zone.membership import Membership

PORT = 3182
"""Of the page, as the forerunner has it."""


@click.command()
@zone_option
@click.option("--name", default="", metavar="NAME", help="What the machine is to be called. [default: as id new said]")
@click.option("--ip", "ips", multiple=True, metavar="IP", help="An address it has; may be repeated.")
@click.option("--net", default="", metavar="NET", help="How it is reached: wan, wan_dyn, portmap, nat, lan1 …")
@click.option("--rtcp-port", type=click.IntRange(1, 65535), metavar="PORT", help="Where it takes tunnels.")
@click.option(
    "--listen", default=f"127.0.0.1:{PORT}", show_default=True, metavar="HOST:PORT", help="Where the page is."
)
@click.option("--request", "out", type=click.Path(path_type=Path), metavar="FILE", help="Write what it asks for here.")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="FILE", help="Take what was signed; no page.")
@yes_option
@identity_home_option
def activate(
    zone: str,
    name: str,
    ips: tuple[str, ...],
    net: str,
    rtcp_port: int | None,
    listen: str,
    out: Path | None,
    bundle: Path | None,
    yes: bool,
    home: Path,
) -> None:
    """Make this machine one of its owner's zone.

    It shows what the owner has to sign, and a page that takes what was signed from whoever knows the code that is
    printed here.  With --bundle it takes a file instead.

    \b
    Example:
      cyfs-gateway node activate --zone home.example --request box.request
      cyfs-gateway node activate --bundle box.membership
    """
    from cyfs_ns.clock import is_unset, why_unset
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.io.trusted.keystore import KeyStore, host_label
    from node.io.activation.desk import Desk

    with telling():
        writing(home)
        if is_unset(time.time()):
            raise ConfigFault(f"{why_unset(time.time())}; set it first, for what is asked and signed is dated")
        wanted = _label(name) if name else None
        key, _ = KeyStore(home).ensure_device(wanted or host_label())
        desk = Desk(home=home, key=key, name=wanted)
        if bundle is not None:
            _take_file(desk, bundle, yes)
            return
        request = _request(home, key, wanted, zone_of(zone), ips, net, rtcp_port)
        if out is not None:
            put_request(request, key, out)
        _serve(replace(desk, name=request.name), request, listen)


def _request(
    home: Path,
    key: SecretKey,
    name: str | None,
    zone: Did | None,
    ips: tuple[str, ...],
    net: str,
    rtcp_port: int | None,
) -> DeviceRequest:
    """What this machine asks for; what is not said is as it was signed last."""
    from cyfs_ns import names
    from cyfs_ns.identity.oods import read_ood
    from cyfs_ns.identity.request import LIFETIME, DeviceRequest
    from cyfs_ns.io.trusted.keystore import KeyStore, host_label
    from zone.io.membership import MembershipStore

    held = MembershipStore(home).held()
    name = name or (held.name if held else None) or KeyStore(home).device_name() or host_label()
    if net:
        read_ood(f"{name}@{net}")
    now = int(time.time())
    return DeviceRequest(
        name=name,
        key=key.public,
        zone=zone or (held.zone.id if held else None),
        ips=tuple(names.ip(ip) for ip in ips) or (held.device.ips if held else ()),
        net=net or (held.device.net if held else None),
        rtcp_port=rtcp_port or (held.device.rtcp_port if held else None),
        iat=now,
        exp=now + LIFETIME,
    )


def _take_file(desk: Desk, bundle: Path, yes: bool) -> None:
    from cyfs_ns.errors import BadWire
    from cyfs_ns.io.trusted.keystore import read_file
    from zone.membership import MOST_MEMBERSHIP

    try:
        new = desk.look(read_file(bundle, MOST_MEMBERSHIP))
    except BadWire as bad:
        raise BadWire(f"{bundle}: {bad}") from None
    _show(new)
    sure("Is that your owner?", yes)
    desk.take(new)
    _done(new)


def _serve(desk: Desk, request: DeviceRequest, listen: str) -> None:
    import secrets

    import trio

    from cyfs_ns.identity.did import dev_did
    from node.activation.code import DICE, make_code
    from node.io.activation.desk import Page

    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter("it is HOST:PORT", param_hint="--listen")
    code = make_code(secrets.token_bytes(DICE))

    def ready(urls: list[str]) -> None:
        facts({"machine": request.name, "key": dev_did(request.key), "page": " ".join(urls), "code": code})
        click.echo("The page takes what the owner signed (node sign) from whoever says the code.  Ctrl-C ends it.")

    membership = None
    try:
        membership = trio.run(Page(desk, request, code).serve, host.strip("[]"), int(port), ready)
    except* KeyboardInterrupt:
        click.echo("nothing was changed", err=True)
    if membership is None:
        raise SystemExit(1)
    _done(membership)


def _done(membership: Membership) -> None:
    click.echo(
        f"this machine is {membership.name!r} of {membership.zone.id}; a gateway that runs learns it when restarted"
    )


@click.command()
@click.argument("request", type=click.Path(path_type=Path))
@zone_option
@click.option("--name", default="", metavar="NAME", help="Call it so, whatever it asked for.")
@click.option("--ood", "is_ood", is_flag=True, help="It is to carry the zone.  The first machine does anyway.")
@click.option("--gateway", "is_gateway", is_flag=True, help="It is to let the outside in, without carrying the zone.")
@click.option("--node", "is_node", is_flag=True, help="It is to do neither.")
@click.option("--replace", "replaces", is_flag=True, help="It takes the place of the machine that has its name.")
@click.option("--sn", default=None, metavar="HOST", help="The relay the zone is reached by. [default: as it was]")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="[default: NAME.membership]")
@owner_option
@days_option
@yes_option
@identity_home_option
def sign(
    request: Path,
    zone: str,
    name: str,
    is_ood: bool,
    is_gateway: bool,
    is_node: bool,
    replaces: bool,
    sn: str | None,
    out: Path | None,
    pem: Path | None,
    days: int,
    yes: bool,
    home: Path,
) -> None:
    """Take the machine that made REQUEST into your zone.

    REQUEST is its file; - is standard input.  It is said where the owner's key is.  The key that is shown must be the
    one the machine shows.  A machine that the zone has already gets newer documents.

    \b
    Example:
      cyfs-gateway node sign box.request --zone home.example
      cyfs-gateway node sign box.request --replace
    """
    from cyfs_ns import names
    from cyfs_ns.identity.did import dev_did
    from node.activation.signing import Wish, plan_entry, sign_entry
    from zone.membership import Role

    with telling():
        roles = [role for role, said in zip(Role, (is_ood, is_gateway, is_node), strict=True) if said]
        if len(roles) > 1:
            raise click.UsageError("it is one of --ood, --gateway and --node")
        wish = _wish(request)
        if name:
            wish = replace(wish, name=_label(name))
        desk = _Desk.at(owner_store(pem, home), days)
        into = desk.zone_for(zone_of(zone) or wish.zone)
        plan = plan_entry(
            desk.last,
            Wish(
                request=wish,
                zone=into,
                role=roles[0] if roles else None,
                replaces=replaces,
                sn=None if sn is None else names.host(sn),
            ),
        )
        facts(
            {
                "machine": wish.name,
                "key": dev_did(wish.key),
                "zone": into,
                "role": plan.role,
                "addresses": ", ".join(wish.ips) or "none",
                "net": wish.net or "not said",
                "machines of the zone": ", ".join([*plan.others, wish.name]),
                "owner": f"{desk.owner.name}, {desk.owner.id}",
            }
        )
        if plan.old_key is not None:
            click.echo(f"It takes the place of {dev_did(plan.old_key)}, which is refused from then on.")
        sure("Is that your machine, and shall it be in your zone?", yes)
        signed = sign_entry(desk.issuer(wish.name), desk.owner_token, plan, wish)
        desk.keep(wish.name, signed)
        out = out or Path(f"{wish.name}.membership")
        assert signed.membership is not None
        put_out(out, signed.membership.decode())
    click.echo(f"signed: {out}")
    click.echo(f"for the machine: its page, or node activate --bundle {out}; for the others: id txt, into the DNS")


@click.command()
@click.argument("name")
@owner_option
@days_option
@yes_option
@identity_home_option
def remove(name: str, pem: Path | None, days: int, yes: bool, home: Path) -> None:
    """Have the machine NAME in your zone no longer.

    It is said where the owner's key is.  Whoever sees the new document refuses that machine.

    \b
    Example:
      cyfs-gateway node remove laptop
    """
    from cyfs_ns.errors import ConfigFault
    from cyfs_ns.identity.did import dev_did
    from node.activation.signing import plan_removal, sign_removal

    with telling():
        desk = _Desk.at(owner_store(pem, home), days)
        if desk.last is None:
            raise ConfigFault(f"{desk.store.path}: no zone was signed here")
        plan = plan_removal(desk.last, name)
        assert plan.old_key is not None
        facts(
            {
                "machine": name,
                "key": dev_did(plan.old_key),
                "zone": plan.zone,
                "those that stay": ", ".join(plan.others),
            }
        )
        sure("Shall it be in your zone no longer?", yes)
        desk.keep(name, sign_removal(desk.issuer(name), plan))
    click.echo("signed; now publish it, so that the others hear of it: id txt, into the DNS")


@click.command()
@json_option
@identity_home_option
def status(as_json: bool, home: Path) -> None:
    """Show which zone this machine is in.

    \b
    Example:
      cyfs-gateway node status
    """
    from cyfs_ns.errors import CyfsError
    from node.io.activation.desk import told
    from zone.io.membership import MembershipStore

    with telling():
        store, now = MembershipStore(home), time.time()
        held, fault = store.held(), ""
        if held is not None:
            try:
                store.own(now)
            except (CyfsError, OSError) as bad:
                fault = str(bad)
        shown = {} if held is None else {**told(held), "until": held.device.exp, "document": str(held.revision)}
    if as_json:
        print_json({"zone": None, **shown, "fault": fault})
    elif held is None:
        click.echo("in no zone; to enter one: node activate")
    else:
        facts({**shown, "until": day(held.device.exp), **({"fault": fault} if fault else {})})


@click.command()
@yes_option
@identity_home_option
def leave(yes: bool, home: Path) -> None:
    """Let this machine be in its owner's zone no longer.

    Its key stays, and so does what is on its disk below zone/.  The owner says the same: node remove.

    \b
    Example:
      cyfs-gateway node leave
    """
    from zone.io.membership import MembershipStore
    from zone.membership import ood_names

    with telling():
        writing(home)
        store, now = MembershipStore(home), time.time()
        store.mend(now)
        held = store.held()
        if held is None:
            click.echo("it is in no zone")
            return
        _show(held)
        if ood_names(held.zone) == (held.name,):
            click.echo(
                f"It alone carries {held.zone.id}: the zone ends with it, unless its state is brought elsewhere."
            )
        sure("Shall it leave?", yes)
        store.leave(now)
    click.echo(f"it is in no zone; restart a gateway that runs, and where the owner's key is: node remove {held.name}")


@dataclass(frozen=True)
class _Desk:
    """Where the owner of one zone signs: their own document, and the last one of the zone."""

    store: OwnerStore
    owner: OwnerDoc
    owner_token: str
    last: ZoneDoc | None
    days: int

    @classmethod
    def at(cls, store: OwnerStore, days: int) -> _Desk:
        from cyfs_ns.errors import ConfigFault
        from cyfs_ns.identity.documents import ZoneDoc
        from cyfs_ns.io.trusted.keystore import read_token_file

        path = store.path / "owner.jwt"
        owner = store.document()
        if owner is None:
            raise ConfigFault(f"{path}: say first who the owner is: id sign owner --name NAME")
        if owner.key != store.key().public:
            raise ConfigFault(f"{path}: it is for another key than {store.pem}")
        if owner.exp <= time.time():
            raise ConfigFault(f"{path}: it has expired; sign it anew: id sign owner")
        last = store.last(store.path / "zone.jwt")
        if last is not None and (not isinstance(last, ZoneDoc) or last.key != owner.key):
            raise ConfigFault(f"{store.path / 'zone.jwt'}: no document of a zone of this owner")
        return cls(store, owner, read_token_file(path)[0].text, last, days)

    def zone_for(self, said: Did | None) -> Did:
        """The zone that is meant."""
        from cyfs_ns.errors import ConfigFault

        if self.last is not None:
            if said is not None and said.canonical != self.last.id.canonical:
                raise ConfigFault(
                    f"{self.store.path / 'zone.jwt'}: {self.last.id} is kept there, and {said} is asked for;"
                    " an owner of two zones keeps each with its own --owner"
                )
            return self.last.id
        if (zone := said or self.owner.default_zone) is None:
            raise ConfigFault("which zone?  --zone HOST")
        return did_of(str(zone))

    def issuer(self, name: str) -> Issuer:
        """The owner, signing what follows all that was signed before of the zone and of the machine ``name``."""
        from cyfs_ns.identity.issue import Issuer, next_iat

        kept = [self.last, *(self.store.last(path) for path in (self.store.path / "boot.jwt", self._device(name)))]
        iat = next_iat(max((document.iat for document in kept if document is not None), default=None), time.time())
        return Issuer(key=self.store.key(), id=self.owner.id, iat=iat, exp=iat + self.days * 86_400)

    def keep(self, name: str, signed: Signed) -> None:
        """Beside the key.  The zone's document comes last: until then all is as it was."""
        if signed.device is not None:
            self.store.put(self._device(name), signed.device)
        self.store.put(self.store.path / "boot.jwt", signed.boot)
        self.store.put(self.store.path / "zone.jwt", signed.zone)
        if signed.device is None:
            self._device(name).unlink(missing_ok=True)

    def _device(self, name: str) -> Path:
        return self.store.path / "devices" / f"{name}.jwt"


def _wish(path: Path) -> DeviceRequest:
    """The request in ``path``.  Raises ``BadWire`` and ``ConfigFault``."""
    from cyfs_ns.errors import BadWire
    from cyfs_ns.identity.request import MOST_REQUEST, DeviceRequest, read_request
    from cyfs_ns.io.trusted.keystore import read_file

    given = sys.stdin.buffer.read(MOST_REQUEST + 1) if str(path) == "-" else read_file(path, MOST_REQUEST)
    try:
        wish = read_request(given, time.time())
    except BadWire as bad:
        raise BadWire(f"{path}: {bad}") from None
    if not isinstance(wish, DeviceRequest):
        raise BadWire(f"{path}: {wish.kind}; a machine's is needed: node activate, there")
    return wish


def _label(name: str) -> str:
    from cyfs_ns.identity.fields import Fields

    return Fields({"name": name}, "machine").label("name")


def _show(membership: Membership) -> None:
    from node.io.activation.desk import told

    facts(told(membership))
