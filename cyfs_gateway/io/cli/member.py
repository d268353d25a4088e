"""``sn``, for who belongs to one: names, domains and machines there, and what of it leads here.

What changes an account is signed by the owner, where the owner's key is; an SN takes it from whoever brings it.  So a
request may be signed on a machine without any network (``--print``) and sent from another one (``sn submit``).
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cyfs_gateway.io.cli.common import Place, ask, home_option, json_option, pass_place, print_json, running_in_trio
from cyfs_ns.io.cli.common import facts
from cyfs_ns.io.cli.identifying import out_option, owner_option, owner_store, put_out, sure, telling, yes_option
from cyfs_ns.printable import printable

if TYPE_CHECKING:
    from cyfs_gateway.io.command.attached import Controller
    from cyfs_gateway.io.sntalk import Conversation
    from cyfs_gateway.sn.requests import Action
    from cyfs_gateway.sn.talk import Ask, Reply

_T = TypeVar("_T")

_NEXT_SECOND = 1.1
_NO_WAY = (403, 504)
"""What the gateway answers when the way to the SN, and not the way to the gateway, is the trouble."""
_STATUS = "How things stand with it: cyfs-gateway status"
_BY_KEY = (
    "rtcp/sn of the configuration has no SN at this host name; for another one documents of an owner are wanted.\n"
    "Name the SN by its key there, as {peer: 'did:dev:...', at: 'HOST:2980'}; whoever runs it says which."
)
_sn_argument = click.argument("sn_name", metavar="SN")


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where a request of the owner is signed, and what becomes of it."""

    place: Place
    sn: str
    pem: Path | None
    prints: bool
    out: Path | None
    yes: bool
    as_json: bool

    def ask(self, action: Action) -> None:
        """Sign ``action`` and have it done, or print it."""
        if self.prints or self.out is not None:
            with telling():
                put_out(self.out, self._signed(action, self._offline_domain()) + "\n")
            return
        from cyfs_gateway.sn.requests import described

        sn = _as_configured(self.place, self.sn)
        domain, said = running_in_trio(self.place, lambda controller: self._asked(controller, sn, action))
        ask(self.place, "POST", "cyfs", "memberships")
        _show(said, self.as_json, f"{domain}: {described(action)}: ")

    def _signed(self, action: Action, domain: str, *, asked: bool = False) -> str:
        """``asked``: they have said yes to it already."""
        import time

        from cyfs_gateway.sn.requests import described, sign_request
        from cyfs_ns.identity.did import dev_did

        store = owner_store(self.pem, self.place.home)
        key, document = store.key(), store.document()
        whose = document.id if document is not None and document.key == key.public else dev_did(key.public)
        if not asked:
            sure(f"Sign for {domain}, as {whose}: {described(action)}?", self.yes)
        return sign_request(action, whose, key, domain, time.time())[0]

    def _offline_domain(self) -> str:
        from cyfs_ns import names
        from cyfs_ns.errors import ConfigFault

        if self.sn.startswith("did:"):
            raise ConfigFault("what is signed for later needs the domain of the SN, as sn.example, and no DID")
        return names.name(self.sn)

    async def _asked(self, controller: Controller, sn: str, action: Action) -> tuple[str, Reply]:
        """The SN's domain, and its answer."""
        import trio

        from cyfs_gateway.sn.admission import Code
        from cyfs_gateway.sn.talk import No, Submit

        async def work(talk: Conversation) -> tuple[str, Reply]:
            domain = await _domain_of(talk, sn)
            reply = await talk.ask(Submit(self._signed(action, domain)))
            if isinstance(reply, No) and reply.code == Code.REPLAYED:
                await trio.sleep(_NEXT_SECOND)  # another one was signed a moment ago
                reply = await talk.ask(Submit(self._signed(action, domain, asked=True)))
            return domain, reply

        return await _with(controller, sn, work)


def _of_owner(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every request of an owner has, handed over as a ``_Desk``."""

    @functools.wraps(command)
    def seated(
        place: Place,
        sn_name: str,
        pem: Path | None,
        prints: bool,
        out: Path | None,
        yes: bool,
        as_json: bool,
        **more: Any,
    ) -> None:
        command(_Desk(place, sn_name, pem, prints, out, yes, as_json), **more)

    options = (
        owner_option,
        click.option("--print", "prints", is_flag=True, help="Only sign it, and print it for: sn submit."),
        out_option,
        yes_option,
        json_option,
        home_option,
        pass_place,
    )
    return functools.reduce(lambda told, option: option(told), reversed(options), seated)


@click.command()
@_sn_argument
@click.option("--name", required=True, metavar="NAME", help="The name you want below the SN's domain.")
@click.option("--code", default="", metavar="CODE", help="Your invitation.")
@_of_owner
def join(desk: _Desk, name: str, code: str) -> None:
    """Get a name at an SN, and an account if you have none there.

    SN is the host name that rtcp/sn of the configuration has it at, or its DID.  Another host name will do where
    documents say its key as surely as rtcp/require wants it.

    \b
    Example:
      cyfs-gateway sn join sn.example --name alice --code CODE
    """
    from cyfs_gateway.sn.requests import Register

    desk.ask(Register(name, code))


@click.command()
@_sn_argument
@click.argument("domain")
@_of_owner
def bind(desk: _Desk, domain: str) -> None:
    """Have your own domain served by an SN.

    The SN says which TXT record proves that it is yours; publish it, and ask again.

    \b
    Example:
      cyfs-gateway sn bind sn.example home.example
    """
    from cyfs_gateway.sn.requests import Bind
    from cyfs_ns import names
    from cyfs_ns.errors import BadWire

    try:
        desk.ask(Bind(names.name(domain)))
    except BadWire as bad:
        raise click.UsageError(printable(str(bad))) from None


@click.command()
@_sn_argument
@click.argument("name")
@_of_owner
def release(desk: _Desk, name: str) -> None:
    """Give up a name or a domain at an SN.

    \b
    Example:
      cyfs-gateway sn release sn.example alice
    """
    from cyfs_gateway.sn.requests import Release

    desk.ask(Release(name))


@click.command()
@_sn_argument
@click.argument("name")
@click.option("--device", default="", metavar="DID", help="The machine. [default: this one]")
@_of_owner
def point(desk: _Desk, name: str, device: str) -> None:
    """Say which of your machines answers for a name.

    \b
    Example:
      cyfs-gateway sn point sn.example alice
    """
    from cyfs_gateway.sn.requests import Point

    desk.ask(Point(name, _device(desk.place, device)))


@click.command()
@_sn_argument
@click.argument("name")
@click.option(
    "--boot", type=click.Path(path_type=Path), metavar="FILE", help="The boot document of the zone of that name."
)
@click.option("--issuer", "issuers", multiple=True, metavar="CA", help="A certificate authority that may; repeated.")
@_of_owner
def publish(desk: _Desk, name: str, boot: Path | None, issuers: tuple[str, ...]) -> None:
    """Have documents of yours stand in the DNS beside a name.

    What is not given here does not stand there any more.

    \b
    Example:
      cyfs-gateway sn publish sn.example alice --boot boot.jwt --issuer letsencrypt.org
    """
    from cyfs_gateway.sn.requests import Publish
    from cyfs_ns.io.trusted.keystore import read_token_file

    with telling():
        token = None if boot is None else read_token_file(boot)[0]
    desk.ask(Publish(name, token, issuers))


@click.command()
@_sn_argument
@click.option("--device", default="", metavar="DID", help="The machine. [default: this one]")
@_of_owner
def leave(desk: _Desk, device: str) -> None:
    """Have a machine of yours known no more at an SN.

    A newer document brings it back.

    \b
    Example:
      cyfs-gateway sn leave sn.example
    """
    from cyfs_gateway.sn.requests import Remove

    desk.ask(Remove(_device(desk.place, device)))


@click.command()
@_sn_argument
@_of_owner
def recover(desk: _Desk) -> None:
    """Start again at an SN after a theft.

    All your machines there go, and no document signed until now brings one back.

    \b
    Example:
      cyfs-gateway sn recover sn.example
    """
    from cyfs_gateway.sn.requests import Recover

    desk.ask(Recover())


@click.command()
@_sn_argument
@click.argument("document", type=click.Path(path_type=Path))
@_of_owner
def rekey(desk: _Desk, document: Path) -> None:
    """Tell an SN your new key.

    DOCUMENT is your owner's document, signed with it.

    \b
    Example:
      cyfs-gateway sn rekey sn.example owner.jwt
    """
    from cyfs_gateway.sn.requests import Rekey
    from cyfs_ns.io.trusted.keystore import read_token_file

    with telling():
        token, _ = read_token_file(document)
    desk.ask(Rekey(token))


@click.command("close")
@_sn_argument
@_of_owner
def close_account(desk: _Desk) -> None:
    """Give up your account at an SN, with its names and machines.

    \b
    Example:
      cyfs-gateway sn close sn.example
    """
    from cyfs_gateway.sn.requests import Close

    desk.ask(Close())


@click.command()
@_sn_argument
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@home_option
@pass_place
def submit(place: Place, sn_name: str, file: Path, as_json: bool) -> None:
    """Send a request that was signed elsewhere.

    It was made with --print or -o, and is good for ten minutes.

    \b
    Example:
      cyfs-gateway sn submit sn.example alice.request
    """
    from cyfs_gateway.sn.requests import MOST_REQUEST
    from cyfs_gateway.sn.talk import Submit
    from cyfs_ns.io.trusted.keystore import read_file

    with telling():
        token = read_file(file, MOST_REQUEST + 2).decode("ascii", "replace").strip()
    _simply(place, sn_name, Submit(token), as_json, look=True)


@click.command("names")
@_sn_argument
@json_option
@home_option
@pass_place
def show_names(place: Place, sn_name: str, as_json: bool) -> None:
    """Show what is yours at an SN.

    These are your names and what leads here, and how it sees this machine.

    \b
    Example:
      cyfs-gateway sn names sn.example
    """
    from cyfs_gateway.sn.talk import Where

    _simply(place, sn_name, Where(), as_json)


@click.command()
@_sn_argument
@click.argument("what", metavar="HOST | tcp:PORT[/SERVICE]")
@json_option
@home_option
@pass_place
def expose(place: Place, sn_name: str, what: str, as_json: bool) -> None:
    """Have an SN lead visitors to this machine.

    They come by a host name or a public port, for as long as the tunnel stands.  Port 0 is any that is free.  To have
    it so always, write it under expose of the SN in the configuration.

    \b
    Example:
      cyfs-gateway sn expose sn.example photos.alice.sn.example
      cyfs-gateway sn expose sn.example tcp:0/ssh
    """
    from cyfs_gateway.sn.talk import Lease

    wanted = _place_of(what)
    if wanted.kind != "name" and not wanted.port and not wanted.name:
        raise click.UsageError(f"port 0, any that is free, needs the service that it leads to: {wanted.kind}:0/SERVICE")
    _simply(place, sn_name, Lease(wanted), as_json, look=True)


@click.command()
@_sn_argument
@click.argument("what", metavar="HOST | tcp:PORT[/SERVICE]")
@json_option
@home_option
@pass_place
def unexpose(place: Place, sn_name: str, what: str, as_json: bool) -> None:
    """Give such a name or port back.

    \b
    Example:
      cyfs-gateway sn unexpose sn.example tcp:20022
    """
    from cyfs_gateway.sn.talk import Unlease

    _simply(place, sn_name, Unlease(_place_of(what)), as_json, look=True)


COMMANDS = (
    join,
    bind,
    release,
    point,
    publish,
    leave,
    recover,
    rekey,
    close_account,
    submit,
    show_names,
    expose,
    unexpose,
)


def _simply(place: Place, sn_name: str, what: Ask, as_json: bool, *, look: bool = False) -> None:
    """Ask one thing, and show the answer.  ``look``: what the gateway knows of the SN is another after it."""

    sn = _as_configured(place, sn_name)

    async def work(controller: Controller) -> Reply:
        return await _with(controller, sn, lambda talk: talk.ask(what))

    said = running_in_trio(place, work)
    if look:
        ask(place, "POST", "cyfs", "memberships")
    _show(said, as_json)


def _as_configured(place: Place, sn_name: str) -> str:
    """The DID of the SN that the configuration has at this host name, and no other there; else ``sn_name`` itself."""
    if sn_name.startswith("did:"):
        return sn_name
    host = sn_name.lower().removesuffix(".")
    found = {one["sn"] for one in ask(place, "GET", "cyfs", "status").get("memberships", ()) if one["at"] == host}
    return str(found.pop()) if len(found) == 1 else sn_name


async def _with(controller: Controller, sn_name: str, work: Callable[[Conversation], Awaitable[_T]]) -> _T:
    """What ``work`` brings home from the SN.  Whatever fails behind our gateway is said of the SN."""
    from cyfs_gateway.io.member import PORT
    from cyfs_gateway.io.sntalk import HOST, Conversation
    from cyfs_ns.errors import BadWire, Refused, Unreachable
    from cyfs_ns.io.client import ApiFault

    body = {"peer": sn_name, "host": HOST, "port": PORT, "network": "tcp"}
    try:
        talk = Conversation(await controller.stream("cyfs", "streams", body=body))
    except ApiFault as fault:
        if fault.status not in _NO_WAY:
            raise
        raise _failed(sn_name, fault, _STATUS if sn_name.startswith("did:") else _BY_KEY) from None
    try:
        return await work(talk)
    except Unreachable as fault:
        raise _failed(
            sn_name, fault, f"Whether it was done will show: cyfs-gateway sn names {printable(sn_name)}"
        ) from None
    except (BadWire, Refused) as fault:
        raise _failed(sn_name, fault, _STATUS) from None
    finally:
        talk.close()


def _failed(sn_name: str, fault: Exception, hint: str) -> click.ClickException:
    return click.ClickException(f"{printable(sn_name)}: {printable(str(fault))}\n{hint}")


async def _domain_of(talk: Conversation, sn_name: str) -> str:
    """The domain of the SN, which has to be one that it may have by its name.  Raises ``BadWire``."""
    from cyfs_gateway.membership import check_domain
    from cyfs_gateway.sn.talk import Here, Where
    from cyfs_ns.errors import Refused

    here = await talk.ask(Where())
    if not isinstance(here, Here):
        raise Refused(f"{sn_name} does not say what its domain is: {getattr(here, 'why', '')}")
    check_domain(here.domain, "", "" if sn_name.startswith("did:") else sn_name, ())
    return here.domain


def _show(reply: Reply, as_json: bool, begun: str = "") -> None:
    """The answer, ``begun`` before what it says in words; a no ends the command with 1."""
    from cyfs_gateway.sn.talk import No, Submitted, write_reply
    from cyfs_ns.identity.strictjson import read_object

    told = read_object(write_reply(reply))
    if isinstance(reply, No):
        if as_json:
            print_json(told)
            raise SystemExit(1)
        raise click.ClickException(printable(begun + (reply.why or reply.code)))
    body = told["ok"]
    if as_json:
        print_json(body)
    elif isinstance(reply, Submitted):
        click.echo(printable(begun + reply.why))
        if reply.told:
            facts({name: _text(value) for name, value in reply.told.items()})
    elif isinstance(body, dict):
        facts({name: _text(value) for name, value in body.items() if value not in ("", [], {})} or {"done": "yes"})


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_text(one)}" for key, one in value.items() if one not in ("", 0))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _place_of(text: str) -> Any:
    from cyfs_gateway.sn.talk import Place as Public
    from cyfs_ns import names
    from cyfs_ns.errors import BadWire

    kind, colon, rest = text.partition(":")
    port, _, service = rest.partition("/")
    if colon and kind in ("tcp", "udp") and port.isascii() and port.isdigit() and int(port) < 65536:
        return Public("tcp" if kind == "tcp" else "udp", int(port), service)
    try:
        return Public("name", name=names.name(text))
    except BadWire as bad:
        raise click.UsageError(
            printable(f"a host name, tcp:PORT or udp:PORT, perhaps with /SERVICE, is wanted: {bad}")
        ) from None


def _device(place: Place, text: str) -> Any:
    """The machine that is meant; this one if nobody says."""
    from cyfs_ns.identity.did import dev_did, parse_did
    from cyfs_ns.io.trusted.keystore import KeyStore

    with telling():
        return parse_did(text) if text else dev_did(KeyStore(place.home).device().public)
