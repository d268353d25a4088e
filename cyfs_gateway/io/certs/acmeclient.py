"""An authority that speaks ACME (RFC 8555), by the ``acme`` library, which blocks: each step in a worker thread.

Every step has its deadline, twice: the library's own for each read, and ours for the whole, because a server that
sends a byte every few seconds keeps within the first one for ever.  Replies are bounded.  After any fault the
conversation begins anew, so nothing is ever shared with a thread that was given up.

The library is imported with the first step; it brings ``requests`` along, which a gateway without certificates need
not pay for.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from cyfs_gateway.certs.problems import judged
from cyfs_gateway.certs.upkeep import CertFault
from cyfs_gateway.certs.wanted import Binding, Challenge
from cyfs_gateway.io.certs.store import OpenOrder

if TYPE_CHECKING:
    from acme import messages
    from acme.client import ClientNetwork

_T = TypeVar("_T")

STEP = 60.0
"""Seconds for one step, whatever the other side does."""

_READ = 15
_MOST_REPLY = 1 << 20
_NONCES = 3  # each of two: a nonce may be used up or forgotten, and is then simply replaced (RFC 8555 section 6.5)
_FIRST_LOOK, _LAST_LOOK, _PROVEN_WITHIN, _GIVEN_WITHIN = 0.2, 5.0, 120.0, 120.0
_ASK_AGAIN = 6 * 3600.0
_USER_AGENT = "cyfs-gateway"

_log = logging.getLogger("cyfs.certs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What an authority wants to see before it believes in a name."""

    name: str
    """Without ``*.``"""
    token: str
    key_authorization: str = field(repr=False)
    _body: Any = field(repr=False)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.key_authorization.encode()).digest()

    @property
    def txt(self) -> str:
        """The value of the TXT record, RFC 8555 section 8.4."""
        return urlsafe_b64encode(self.digest).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order at an authority, with what is left to prove."""

    asks: tuple[Ask, ...]
    uri: str
    finalize: str
    _resource: Any = field(repr=False)


class AcmeClient:
    """One account at one authority.  Every method raises :class:`CertFault`.

    ``account_key`` gives the account's key as PEM and may block; it raises ``CertFault``, too.
    """

    def __init__(
        self,
        directory: str,
        account_key: Callable[[], bytes],
        *,
        trust: str = "",
        contact: Sequence[str] = (),
        binding: Binding | None = None,
    ) -> None:
        self.directory = directory
        self.account = ""
        """The URL of the account, once known."""
        self.issuers: tuple[str, ...] = ()
        """Under which names CAA records allow this authority (RFC 8659), as far as it says."""
        self._account_key, self._trust, self._contact, self._binding = account_key, trust, tuple(contact), binding
        self._talk: _Talk | None = None
        self._turn = trio.Lock()

    async def order(self, names: Sequence[str], csr: bytes, challenge: Challenge) -> Order:
        """Begin an order for these names, to be proven by one kind of challenge."""
        return await self._step(lambda talk: talk.order(names, csr, challenge))

    async def prove(self, order: Order) -> None:
        """Let the authority look at what it asked for, until it is convinced."""
        for ask in order.asks:
            await self._step(partial(_Talk.answer, ask=ask))
        with trio.move_on_after(_PROVEN_WITHIN):
            pause = _FIRST_LOOK
            while not await self._step(partial(_Talk.is_proven, order=order)):
                await trio.sleep(pause)
                pause = min(2 * pause, _LAST_LOOK)
            return
        raise CertFault("authority", f"it did not look at the proof within {_PROVEN_WITHIN:.0f} seconds")

    async def fetch(self, order: OpenOrder, csr: bytes) -> bytes:
        """The certificates of a proven order, as PEM."""
        with trio.move_on_after(_GIVEN_WITHIN):
            while True:
                chain = await self._step(partial(_Talk.fetch, order=order, csr=csr))
                if chain is not None:
                    return chain
        raise CertFault("authority", f"it did not give the certificate within {_GIVEN_WITHIN:.0f} seconds")

    async def renewal(self, chain: bytes) -> tuple[float | None, float]:
        """When the authority wants a certificate renewed (RFC 9773), and in how many seconds to ask it again; None
        where it does not say."""
        return await self._step(partial(_Talk.renewal, chain=chain))

    async def _step(self, work: Callable[[_Talk], _T]) -> _T:
        async with self._turn:
            begun, self._talk = self._talk, None  # given back by who gets to the end
            with trio.move_on_after(STEP):
                talk, result = await trio.to_thread.run_sync(
                    partial(self._in_thread, begun, work), abandon_on_cancel=True
                )
                self._talk, self.account, self.issuers = talk, talk.account, talk.issuers
                return result
            raise CertFault("network", f"{self.directory}: no answer within {STEP:.0f} seconds")

    def _in_thread(self, talk: _Talk | None, work: Callable[[_Talk], _T]) -> tuple[_Talk, _T]:
        import josepy
        import requests
        from acme import errors, messages

        heard = talk.heard if talk is not None else _Heard()
        try:
            if talk is None:
                talk = _Talk(self.directory, self._account_key(), self._trust, self._contact, self._binding, heard)
            return talk, work(talk)
        except CertFault:
            raise
        except messages.Error as fault:
            told = str(fault.detail or fault.title or "")
            raise judged(str(fault.typ), told, wait=heard.retry_after) from None
        except requests.exceptions.SSLError as fault:
            raise CertFault(
                "settings", f"{self.directory}: its own certificate is not trusted (trust:): {fault}"
            ) from None
        except requests.exceptions.InvalidJSONError as fault:
            raise CertFault("authority", f"{self.directory}: {fault}") from None
        except requests.exceptions.RequestException as fault:
            raise CertFault("network", f"{self.directory}: {fault}") from None
        except (errors.Error, josepy.errors.Error) as fault:
            raise CertFault("authority", f"{self.directory}: {str(fault) or type(fault).__name__}") from None
        except Exception as fault:
            # Whatever a hostile reply makes the library stumble over is that server's fault.
            _log.debug("a reply of %s was not understood", self.directory, exc_info=fault)
            raise CertFault("authority", f"{self.directory}: its reply makes no sense: {fault!r}") from None


@dataclass(slots=True)
class _Heard:
    """The Retry-After of the last reply, in seconds, which the library's errors do not carry."""

    retry_after: float = 0.0


class _Talk:
    """A conversation with the account known.  Everything here blocks."""

    def __init__(
        self,
        directory: str,
        account_key: bytes,
        trust: str,
        contact: tuple[str, ...],
        binding: Binding | None,
        heard: _Heard,
    ) -> None:
        from acme import client, messages
        from cryptography.hazmat.primitives import serialization
        from josepy.jwk import JWKEC

        self.heard = heard
        key = JWKEC(key=serialization.load_pem_private_key(account_key, None))
        self._key: Any = key
        net = _network(key, trust, heard)
        self._client = client.ClientV2(client.ClientV2.get_directory(directory, net), net)
        meta = getattr(self._client.directory, "meta", None)
        self.issuers: tuple[str, ...] = tuple(map(str, getattr(meta, "caa_identities", None) or ()))
        self.account = self._find_account() or self._make_account(contact, binding)
        net.account = messages.RegistrationResource(uri=self.account, body=messages.Registration())

    def _find_account(self) -> str:
        from acme import errors, messages

        try:
            found = self._client.new_account(messages.NewRegistration(only_return_existing=True))
        except errors.ConflictError as known:
            return str(known.location)
        except messages.Error as fault:
            if fault.code == "accountDoesNotExist":
                return ""
            raise
        return str(found.uri)

    def _make_account(self, contact: tuple[str, ...], binding: Binding | None) -> str:
        from acme import messages

        if binding is None and self._client.external_account_required():
            raise judged("externalAccountRequired", "the authority gives no accounts to strangers")
        bound = None
        if binding is not None:
            bound = messages.ExternalAccountBinding.from_data(
                self._key.public_key(), binding.kid, binding.hmac, self._client.directory
            )
        made = self._client.new_account(
            messages.NewRegistration.from_data(
                contact=contact, terms_of_service_agreed=True, external_account_binding=bound
            )
        )
        _log.info("an account was made: %s", made.uri)
        return str(made.uri)

    def order(self, names: Sequence[str], csr: bytes, challenge: Challenge) -> Order:
        resource = self._client.new_order(csr)
        asks = tuple(
            ask for authorization in resource.authorizations if (ask := self._ask(authorization, challenge)) is not None
        )
        asked, wanted = {ask.name for ask in asks}, {name.removeprefix("*.") for name in names}
        if not asked <= wanted:
            raise CertFault("authority", f"{', '.join(sorted(asked - wanted))}: was never ordered")
        return Order(asks=asks, uri=str(resource.uri), finalize=str(resource.body.finalize), _resource=resource)

    def _ask(self, authorization: messages.AuthorizationResource, challenge: Challenge) -> Ask | None:
        from acme import messages

        name = str(authorization.body.identifier.value)
        if authorization.body.status == messages.STATUS_VALID:
            return None
        offered = {}
        for body in authorization.body.challenges:
            told = body.chall.to_partial_json()  # as it came: the library does not know all kinds
            offered[told.get("type")] = body, str(told.get("token", ""))
        if challenge not in offered:
            there = ", ".join(sorted(map(str, offered)))
            raise CertFault("settings", f"{name}: it cannot be proven by {challenge} there, but by {there}")
        body, token = offered[challenge]
        thumbprint = urlsafe_b64encode(self._key.thumbprint()).rstrip(b"=").decode()
        return Ask(name=name, token=token, key_authorization=f"{token}.{thumbprint}", _body=body)

    def answer(self, ask: Ask) -> None:
        from acme import challenges

        # The same empty object for every kind: RFC 8555 section 7.5.1.
        self._client.answer_challenge(ask._body, challenges.HTTP01Response(key_authorization=ask.key_authorization))

    def is_proven(self, order: Order) -> bool:
        from acme import messages

        for authorization in order._resource.authorizations:
            found, _ = self._client.poll(authorization)
            if found.body.status in (messages.STATUS_PENDING, messages.STATUS_PROCESSING):
                return False
            if found.body.status != messages.STATUS_VALID:
                name = str(found.body.identifier.value)
                faults = [body.error for body in found.body.challenges if body.error is not None]
                if not faults:
                    raise CertFault("proof", f"{name}: the proof was refused, without a reason")
                raise judged(str(faults[0].typ), str(faults[0].detail or ""), name=name)
        return True

    def fetch(self, order: OpenOrder, csr: bytes) -> bytes | None:
        from acme import errors, messages

        resource = messages.OrderResource(
            uri=order.uri, csr_pem=csr, body=messages.Order(finalize=order.finalize), authorizations=[]
        )
        soon = datetime.datetime.now() + datetime.timedelta(seconds=3)
        try:
            done = self._client.poll_finalization(resource, soon)
        except errors.TimeoutError:
            return None
        except errors.IssuanceError as fault:
            raise judged(str(fault.error.typ), str(fault.error.detail or "")) from None
        return str(done.fullchain_pem).encode()

    def renewal(self, chain: bytes) -> tuple[float | None, float]:
        told, again = self._client.renewal_time(chain)
        wait = (again - datetime.datetime.now()).total_seconds()
        return (told.timestamp() if told is not None else None), min(max(wait, 60.0), _ASK_AGAIN)


def _network(key: Any, trust: str, heard: _Heard) -> ClientNetwork:
    """The way to a server, with an end to its replies."""
    import requests
    from acme import client, messages
    from josepy.jwa import ES256
    from requests.adapters import HTTPAdapter

    class Bounded(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            until = time.monotonic() + STEP
            response = super().send(*args, **{**kwargs, "stream": True})
            body = bytearray()
            for piece in response.iter_content(1 << 14):
                body += piece
                if len(body) > _MOST_REPLY or time.monotonic() > until:
                    response.close()
                    raise requests.exceptions.ContentDecodingError("a reply too long, or too slow")
            response._content = bytes(body)
            heard.retry_after = max(0.0, _seconds(response.headers.get("Retry-After", "")))
            return response

    class Network(client.ClientNetwork):
        def post(self, *args: Any, **kwargs: Any) -> requests.Response:
            for _ in range(_NONCES):
                try:
                    return super().post(*args, **kwargs)
                except messages.Error as fault:
                    if fault.code != "badNonce":
                        raise
                    last = fault
            raise last

    net = Network(key, alg=ES256, user_agent=_USER_AGENT, timeout=_READ)
    net.verify_ssl = trust or True  # type: ignore[assignment]  # requests takes a file here
    # What programs in general are told about proxies is not meant for the gateway, which may be that proxy.
    net.session.trust_env = False
    net.session.mount("https://", Bounded())
    return net


def _seconds(retry_after: str) -> float:
    """RFC 9110 section 10.2.3; 0 for what makes no sense."""
    try:
        return (
            float(retry_after)
            if retry_after.isdigit()
            else parsedate_to_datetime(retry_after).timestamp() - time.time()
        )
    except (ValueError, TypeError, OverflowError):
        return 0.0
