"""The section ``identity``: whom to ask who somebody is, and who may ask us.

Nothing here is needed: without it DNS, the web hosts of names and this machine's own files are asked.  What the section
adds are people to believe (validators) and people to ask (resolvers, Ethereum nodes), and both are the owner's choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

from cyfs_ns import names
from cyfs_ns.config.source import BadYaml, Map, parse_yaml
from cyfs_ns.config.written import Fault, Reader, ReadFile, Section, shown
from cyfs_ns.ens.quorum import voice
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.special import IDENTITY_DOMAINS
from cyfs_ns.upstream import parse_upstream

Serve: TypeAlias = Literal["own", "open", "off"]

_SERVE: tuple[Serve, ...] = ("own", "open", "off")
_METHOD = re.compile(r"[a-z0-9]{1,32}").fullmatch
_FIXED_METHODS = frozenset({"dev", "key", "web", "ens"})
_CONTRACT = re.compile(r"0x[0-9a-fA-F]{40}").fullmatch
_MOST_NODES = 16
_MOST_RESOLVERS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsSection:
    """Where ENS is asked.  Both contracts empty: those of Ethereum's main chain; ``registry`` alone: the registry's
    resolvers are asked directly, without a universal resolver."""

    rpc: tuple[str, ...] = field(repr=False)
    """URLs of Ethereum nodes; their paths are often secrets."""
    quorum: int = 0
    """How many must agree; 0: more than half of them."""
    chain: int = 1
    registry: str = ""
    universal: str = ""
    ca: str = ""
    """A file of certificates to trust for the nodes instead of the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """The whole section."""

    bridges: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """DID method to the DNS suffix below which its names are published."""
    validators: frozenset[str] = frozenset()
    """Encrypted name servers, as an upstream prints itself, whose AD bit is believed."""
    resolvers: tuple[str, ...] = ()
    """Universal resolvers: what stands before the DID."""
    private: tuple[str, ...] = ()
    """Names that, with all below them, may stand at private addresses."""
    ens: EnsSection | None = None
    serve: Serve = "own"
    """What strangers may ask us about."""

    def may_be_private(self, host: str) -> bool:
        """Whether a canonical host is the owner's own, wherever it stands."""
        return any(host == name or host.endswith("." + name) for name in self.private)


def read_identity(top: Section) -> IdentityConfig:
    """The section ``identity`` of the file; faults go to the reader."""
    section = top.table("identity")
    if section is None:
        return IdentityConfig()
    config = IdentityConfig(
        bridges=MappingProxyType(dict(_bridges(section))),
        validators=frozenset(_each(section, "validators", _validator)),
        resolvers=tuple(dict.fromkeys(_each(section, "resolvers", _resolver)))[:_MOST_RESOLVERS],
        private=tuple(_each(section, "private", names.name)),
        ens=_ens(section),
        serve=section.choice("serve", _SERVE, "own"),
    )
    if len(section.items("resolvers")) > _MOST_RESOLVERS:
        section.error("resolvers", f"more than {_MOST_RESOLVERS}: each is asked every time")
    section.finish()
    return config


def load_identity(
    data: bytes, *, environ: Mapping[str, str] | None = None, read_file: ReadFile | None = None
) -> tuple[IdentityConfig, tuple[Fault, ...]]:
    """The section of a whole file, whatever else stands there, for commands that need no more.  Never raises."""
    reader = Reader(environ, read_file)
    try:
        root, _ = parse_yaml(data)
    except BadYaml as bad:
        reader.note("/", bad.line, bad.column, bad.message)
        return IdentityConfig(), reader.faults()
    config = IdentityConfig()
    if isinstance(root, Map):
        config = read_identity(Section(reader, root, ""))
    elif root is not None:
        reader.error("/", root, f"expected a mapping, found {shown(root)}")
    return config, reader.faults()


def _bridges(section: Section) -> Iterator[tuple[str, str]]:
    table = section.table("bridges")
    taken: list[str] = []
    for method in table or ():
        assert table is not None
        if not _METHOD(method) or method in _FIXED_METHODS:
            table.error(method, f"{method[:40]!r} is no method of DIDs that has a bridge")
            continue
        try:
            bridge = names.name(table.needed(method))
        except BadWire as fault:
            table.error(method, str(fault))
            continue
        beside = next(
            (one for one in taken if f".{bridge}".endswith(f".{one}") or f".{one}".endswith(f".{bridge}")), ""
        )
        if beside:
            table.error(method, f"{bridge} and {beside} overlap: a host below both would have two names")
        elif bridge.rpartition(".")[2] in IDENTITY_DOMAINS:
            table.error(method, f"{bridge}: there is no such name in the DNS, where bridges stand")
        else:
            taken.append(bridge)
            yield method, bridge


def _validator(text: str) -> str:
    upstream = parse_upstream(text)
    if upstream.scheme not in ("tls", "https") or upstream.skip_cert_verify:
        raise ConfigFault("the word of a validator counts over a checked line only: write tls://… or https://…")
    return str(upstream)


def _resolver(text: str) -> str:
    """``https://host/1.0/identifiers/``; plain http within this machine alone."""
    try:
        parts = urlsplit(text)
        host, _ = names.host(parts.hostname or ""), parts.port
    except (ValueError, BadWire):
        raise ConfigFault("expected a URL such as https://resolver.example/1.0/identifiers/") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ConfigFault("a resolver is asked by https")
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigFault("the DID is put behind this URL: neither '?' nor '#' may stand in it, nor a password")
    return text if text.endswith("/") else text + "/"


def is_loopback(host: str) -> bool:
    """Whether a canonical host is an address of this machine alone."""
    return host == "::1" or (names.is_ip(host) and host.startswith("127."))


def _ens(section: Section) -> EnsSection | None:
    table = section.table("ens")
    if table is None:
        return None
    rpc = tuple(_each(table, "rpc", _node))
    if not table.has("rpc"):
        table.error("rpc", "which Ethereum nodes? 'rpc' is missing")
    found = EnsSection(
        rpc=rpc[:_MOST_NODES],
        quorum=table.integer("quorum", 0, 0, _MOST_NODES),
        chain=table.integer("chain", 1, 1),
        registry=_contract(table, "registry"),
        universal=_contract(table, "universal"),
        ca=table.text("ca"),
    )
    hosts = [voice(urlsplit(url).hostname or "") for url in rpc]
    if len(set(hosts)) < len(hosts):
        table.error("rpc", "two nodes on one host: one that counts twice is no quorum")
    if len(rpc) > _MOST_NODES:
        table.error("rpc", f"more than {_MOST_NODES} nodes")
    if rpc and found.quorum > len(rpc):
        table.error("quorum", f"{found.quorum} of {len(rpc)} nodes can never agree")
    if len(rpc) == 1:
        table.warn("rpc", "a single node can lie unnoticed; its word counts as auth-channel. Give three")
    table.finish()
    return found


def _node(text: str) -> str:
    try:
        parts = urlsplit(text)
        names.host(parts.hostname or "")
        usable = parts.scheme in ("http", "https") and parts.port != 0
    except (ValueError, BadWire):
        usable = False
    if not usable:
        raise ConfigFault("expected the https URL of an Ethereum node")
    return text


def _contract(table: Section, key: str) -> str:
    text = table.text(key).strip()
    if text and not _CONTRACT(text):
        table.error(key, "expected the address of a contract: 0x and 40 hex digits")
        return ""
    return text.lower()


def _each(section: Section, key: str, read: Callable[[str], T]) -> Iterator[T]:
    """Every text of a list, read; what cannot be is a fault at its place."""
    for at, node, text in section.items(key):
        try:
            yield read(text.strip())
        except (ConfigFault, BadWire) as fault:
            section.reader.error(at, node, str(fault))
