"""What a proxy provider brings: strangers' bytes to the same specs that ``proxies`` makes.

A body is Clash YAML with ``proxies``, or share links one a line, or those in base64.  One bad entry is passed over
with a warning, as a subscription is not ours to mend; a body that is none of the three fails whole.  Nothing here looks
into the environment or at files, whatever tags the body carries.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from cyfs_gateway.config.model import NOT_CARRIED, ProxyProviderConfig, UnsupportedProxy
from cyfs_gateway.config.names import Sieve, renamer
from cyfs_gateway.config.outbounds import read_proxy
from cyfs_ns.config.source import BadYaml, Map, Node, Scalar, Seq, parse_yaml, tree_of
from cyfs_ns.config.written import Fault, Reader, Section, shown
from cyfs_ns.errors import BadWire
from tunnels.spec import ProxySpec

MAX_BYTES = 16 * 1024 * 1024
"""Of a body, unless the provider's ``size-limit`` says less."""
MAX_ENTRIES = 20_000

_LINK = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,20})://")
_SCHEMES = {"hy2": "hysteria2", "wg": "wireguard"}


@dataclass(frozen=True, slots=True)
class ProviderContent:
    """Proxies in the order of the body, filtered and renamed; ``unsupported`` are of types that this build lacks."""

    proxies: tuple[ProxySpec, ...]
    unsupported: tuple[UnsupportedProxy, ...]
    faults: tuple[Fault, ...]


def parse_provider(untrusted: bytes, provider: ProxyProviderConfig) -> ProviderContent:
    """Raises ``BadWire`` when the body as a whole cannot be used, and nothing else."""
    limit = min(provider.size_limit or MAX_BYTES, MAX_BYTES)
    if len(untrusted) > limit:
        raise BadWire(f"the body has {len(untrusted)} bytes; at most {limit} are read")
    reader = Reader()
    try:
        root: Node | None = parse_yaml(untrusted)[0]
    except BadYaml as fault:
        root, bad = None, fault
    else:
        bad = BadYaml("the body is neither Clash YAML nor a list of share links")
    if isinstance(root, Map) and isinstance(entries := root.items.get("proxies"), Seq):
        return read_entries(entries, "/proxies", provider, reader)
    links = list(_links(untrusted))
    if not links:
        raise bad
    return read_entries(
        Seq([_of_link(link, number) for number, link in enumerate(links, 1)], 0, 0), "", provider, reader
    )


def read_entries(entries: Seq, at: str, provider: ProxyProviderConfig, reader: Reader) -> ProviderContent:
    """The entries of a body or of an inline ``payload``, with the provider's override and filters applied."""
    if len(entries.items) > MAX_ENTRIES:
        raise BadWire(f"{len(entries.items)} proxies; at most {MAX_ENTRIES} are read")
    override = provider.override
    changes = [renamer(pattern, target) for pattern, target in override.proxy_name]
    laid_over = tree_of(dict(override.fields))
    found: dict[str, ProxySpec | UnsupportedProxy] = {}
    own = Reader()
    for index, item in enumerate(entries.items):
        if not isinstance(item, Map):
            own.error(f"{at}/{index}", item, f"expected a proxy, found {shown(item)}")
            continue
        assert isinstance(laid_over, Map)
        tree = replace(item, items=item.items | laid_over.items) if laid_over.items else item
        before = own.errors
        spec = read_proxy(Section(own, tree, f"{at}/{index}"))
        if spec is None or own.errors != before:
            continue
        name = spec.name
        for change in changes:
            name = change(name)
        name = override.additional_prefix + name + override.additional_suffix
        if name in found:
            own.warn(f"{at}/{index}", item, f"there is another proxy {name[:60]!r}; this one is left out")
        elif name:
            found[name] = spec if name == spec.name else replace(spec, name=name)
    for fault in own.faults():
        reader.note(fault.path, fault.line, fault.column, fault.message, warning=True)
    chosen = Sieve(provider.filter, provider.exclude_filter, provider.exclude_type)
    kept = [found[name] for name in chosen.keep((name, spec.type) for name, spec in found.items())]
    return ProviderContent(
        tuple(spec for spec in kept if not isinstance(spec, UnsupportedProxy)),
        tuple(spec for spec in kept if isinstance(spec, UnsupportedProxy)),
        reader.faults(),
    )


def _links(untrusted: bytes) -> Iterator[str]:
    text = untrusted.decode("utf-8-sig", errors="replace")
    if not _LINK.search(text):
        packed = re.sub(r"\s+", "", text).translate(str.maketrans("-_", "+/")).rstrip("=")
        try:
            text = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True).decode("utf-8-sig", "replace")
        except (binascii.Error, ValueError):
            return
    for line in text.splitlines():
        if _LINK.match(line.strip()):
            yield line.strip()


def _of_link(link: str, number: int) -> Node:
    """A share link as the ``proxies`` entry it stands for; what cannot be read becomes one that the reader faults."""
    found = _LINK.match(link)
    scheme = found[1].lower() if found else ""
    scheme = _SCHEMES.get(scheme, scheme)
    body, _, fragment = link.partition("#")
    name = unquote(fragment).strip() or f"{scheme} {number}"
    if scheme in NOT_CARRIED or scheme not in ("socks", "socks5", "http", "https"):
        return tree_of({"name": name, "type": scheme})
    try:
        parts = urlsplit(body)
        host, port = parts.hostname, parts.port
    except ValueError:
        return Scalar("a link that is no URL", False, "", 0, 0)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and parts.password is None:
        user, password = _packed_user(user)
    tls = scheme == "https"
    entry = {
        "name": name,
        "type": "socks5" if scheme.startswith("socks") else "http",
        "server": host or "",
        "port": port or (443 if tls else 80 if scheme == "http" else 1080),
        "username": user,
        "password": password,
        "tls": tls,
        "udp": scheme.startswith("socks"),
    }
    return tree_of(entry)


def _packed_user(text: str) -> tuple[str, str]:
    """Some programs put ``user:password`` in base64 where a URL has its user."""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return text, ""
    name, colon, password = plain.partition(":")
    return (name, password) if colon else (text, "")
