"""The file of a name server that runs alone: ``dns``, ``hosts`` and ``identity`` of a Clash YAML, and no other section.

So a Clash file serves as it is, and what it says of proxies is somebody else's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cyfs_ns.config.dns import DnsConfig, read_dns, read_hosts
from cyfs_ns.config.identity import IdentityConfig, read_identity
from cyfs_ns.config.source import BadYaml, Map, parse_yaml
from cyfs_ns.config.written import Fault, Reader, ReadFile, Section, shown

DEFAULT_YAML = b"dns: {enable: true, listen: ':53'}\n"
"""What runs when there is no file: a cache for the house, in front of the servers of the system."""


@dataclass(frozen=True, slots=True)
class LoadedDns:
    """What came of a file; ``dns`` is None when there are errors among the faults."""

    dns: DnsConfig | None
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    identity: IdentityConfig = field(default_factory=IdentityConfig)


def load_dns(data: bytes, *, environ: Mapping[str, str] | None = None, read_file: ReadFile | None = None) -> LoadedDns:
    """Read a whole file.  Never raises.  Without ``environ`` or ``read_file``, ``!env`` or ``!file`` are faults."""
    try:
        root, _ = parse_yaml(data)
    except BadYaml as bad:
        reader = Reader()
        reader.note("/", bad.line, bad.column, bad.message)
        return LoadedDns(None, faults=reader.faults())
    reader = Reader(environ, read_file)
    if not isinstance(root, Map):
        root = Map({}, 1, 1) if root is None else root
        if not isinstance(root, Map):
            reader.error("/", root, f"expected a mapping, found {shown(root)}")
            return LoadedDns(None, faults=reader.faults())
    top = Section(reader, root, "")
    if not top.has("dns"):
        reader.error("/", root, "there is no section 'dns'")
    # Whoever starts a name server alone has enabled it.
    dns, hosts, identity = replace(read_dns(top), enable=True), read_hosts(top), read_identity(top)
    if not (dns.doors.plain or dns.doors.tls or dns.doors.https or dns.doors.http) and not reader.errors:
        top.error("dns", "nobody could ask: say where with 'listen', 'listen-tls' or 'listen-https'")
    if dns.respect_rules:
        top.warn("dns", "'respect-rules' has no effect: there are no rules without a gateway")
    faults = reader.faults()
    return LoadedDns(None if reader.errors else dns, hosts, faults, identity)
