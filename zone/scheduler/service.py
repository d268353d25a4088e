"""A service as its owner declares it: one page of YAML, or the same page as JSON in the store.

    service: notes
    image: notes:1.4            # of a container; the package of a process or script
    kind: container
    command: [notes, --listen, "0.0.0.0:$PORT_HTTP"]
    env: {LANG: C.UTF-8}
    cpu: 0.5                    # cores that it is sure of, to a thousandth
    cpu-limit: 2                # cores that it gets at most; without it, whatever is idle
    memory: 256M
    ports: {http: auto, metrics: 9100}
    volumes: {data: /var/lib/notes}
    health: {port: http, path: /healthz, every: 5s}
    replicas: 1
    labels: {disk: ssd}         # a node must have all of these
    near: [db]                  # rather beside one of these
    apart: [search]             # never on a node with one of these
    spread: room                # rather where this label of the node has a value that is not taken
    grace: 60s                  # of a node's silence before another takes over
    upgrade: {at-once: 1, settle: 10s, deadline: 5m}

``Work`` is the part that a node carries out: another ``Work`` is another version and is rolled out.  The rest says how
many and where, and changes without touching what runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cyfs_ns.config.source import BadYaml, Map, parse_yaml
from cyfs_ns.config.written import Fault, Reader, Section, shown
from cyfs_ns.identity.strictjson import write_json
from zone.hub.subjects import KERNEL

Kind = Literal["container", "process", "script"]

MAX_PAGE = 64 * 1024
"""Bytes of a page, as it came and as it is kept: whatever is written of a service is far below what a key may hold."""
MAX_LIST = 64
"""Entries of each list or mapping of a page."""
MAX_PORTS = 16
"""Of a service; ``services/<s>/info`` names them once for every node."""
MAX_TEXT = 4096
"""Characters of each text of a page."""
MAX_REPLICAS = 100
MAX_CPU = 1_000_000
"""Thousandths of a core."""
MIN_CPU_LIMIT = 10
"""Thousandths of a core: the kernel gives no slice below a millisecond, of a hundred."""
MAX_MEMORY = 1 << 39

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Of services and nodes, which become labels of DNS names (RFC 1123, lower case)."""
LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")
"""Of labels, and what they say."""
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_CORES = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,3}))?")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Health:
    """How a node asks an item whether it can serve: by a connection, or by GET when there is a path."""

    port: str
    path: str = ""
    every: float = 5.0
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a node carries out.  Pairs are sorted, so two pages that say the same are equal."""

    image: str
    kind: Kind = "container"
    command: tuple[str, ...] = ()
    env: Pairs = field(default=(), repr=False)
    cpu: int = 100
    """Thousandths of a core."""
    cpu_limit: int = 0
    """The same, at most; 0: no limit."""
    memory: int = 64 << 20
    """Bytes."""
    ports: tuple[tuple[str, int], ...] = ()
    """Name and number; 0: the scheduler chooses one for each node."""
    volumes: Pairs = ()
    """Name, and the path at which the item sees it."""
    health: Health | None = None

    def as_page(self) -> dict[str, Any]:
        """As it is written on a page; ``read_work`` reads it back."""
        page: dict[str, Any] = {
            "image": self.image,
            "kind": self.kind,
            "command": list(self.command),
            "env": dict(self.env),
            "cpu": f"{self.cpu // 1000}.{self.cpu % 1000:03}",
            "memory": self.memory,
            "ports": {name: number or "auto" for name, number in self.ports},
            "volumes": dict(self.volumes),
        }
        if self.cpu_limit:
            page["cpu-limit"] = f"{self.cpu_limit // 1000}.{self.cpu_limit % 1000:03}"
        if self.health is not None:
            page["health"] = {"port": self.health.port, "path": self.health.path, "every": self.health.every}
        return page

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that name this work to people, and to the scheduler's own memory."""
        return hashlib.sha256(write_json(self.as_page())).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """How another version comes: so many items at once, each ready for ``settle`` seconds before the next is touched.

    One that fails, or is not ready ``deadline`` seconds after it was placed, takes all back to the last good version.
    """

    at_once: int = 1
    settle: float = 10.0
    deadline: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """A page as meant."""

    name: str
    work: Work
    replicas: int = 1
    labels: Pairs = ()
    near: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    spread: str = ""
    """A label of nodes; empty: nodes are all alike."""
    grace: float = 60.0
    """Seconds."""
    upgrade: Upgrade = Upgrade()

    def as_page(self) -> dict[str, Any]:
        """As it is kept in the store; ``read_service`` reads it back."""
        return {
            "service": self.name,
            **self.work.as_page(),
            "replicas": self.replicas,
            "labels": dict(self.labels),
            "near": list(self.near),
            "apart": list(self.apart),
            "spread": self.spread,
            "grace": self.grace,
            "upgrade": {
                "at-once": self.upgrade.at_once,
                "settle": self.upgrade.settle,
                "deadline": self.upgrade.deadline,
            },
        }


@dataclass(frozen=True, slots=True)
class LoadedService:
    """What came of a page; ``spec`` is None when there are errors among the faults."""

    spec: ServiceSpec | None
    faults: tuple[Fault, ...] = ()


def load_service(untrusted: bytes) -> LoadedService:
    """Read a page of YAML.  Never raises.  ``!env`` and ``!file`` are faults: a page means the same everywhere."""
    reader = Reader()
    try:
        if len(untrusted) > MAX_PAGE:
            raise BadYaml(f"the page has {len(untrusted)} bytes; at most {MAX_PAGE} are read")
        root, second = parse_yaml(untrusted)
    except BadYaml as bad:
        reader.note("/", bad.line, bad.column, bad.message)
        return LoadedService(None, reader.faults())
    if second:
        reader.note("/", second, 1, "one page declares one service: a second document begins here")
    if not isinstance(root, Map):
        reader.note("/", 1, 1, "the page is empty" if root is None else f"expected a mapping, found {shown(root)}")
        return LoadedService(None, reader.faults())
    spec = read_service(Section(reader, root, ""))
    return LoadedService(None if reader.errors else spec, reader.faults())


def read_service(page: Section) -> ServiceSpec:
    """A page as meant; worth something only while the reader has no errors."""
    work = read_work(page)
    spec = ServiceSpec(
        name=_named(page, "service", NAME, "a name of small letters, digits and hyphens"),
        work=work,
        replicas=page.integer("replicas", 1, 0, MAX_REPLICAS),
        labels=read_labels(page),
        near=_names(page, "near"),
        apart=_names(page, "apart"),
        spread=_named(page, "spread", LABEL, "the name of a label") if page.text("spread") else "",
        grace=page.seconds("grace", 60.0),
        upgrade=_read_upgrade(page),
    )
    if spec.name in KERNEL:
        # Its node would prove it to verify_hub by that name, and on an OOD it would carry the zone.
        page.error("service", f"{spec.name!r} is a part of this program")
    if spec.name in spec.apart:
        page.error("apart", "a service never stands twice on a node; it need not be apart from itself")
    if not page.reader.errors and (size := len(write_json(spec.as_page()))) > MAX_PAGE:
        page.error("service", f"the page comes to {size} bytes of JSON; at most {MAX_PAGE} are kept")
    page.finish()
    return spec


def read_work(page: Section) -> Work:
    """The part of a page that a node carries out."""
    ports = read_ports(page)
    cpu = _cores(page, "cpu", "0.1", 1)
    limit = _cores(page, "cpu-limit", "", max(cpu, MIN_CPU_LIMIT)) if page.text("cpu-limit") else 0
    return Work(
        image=_bounded(page, "image", page.needed("image")),
        kind=page.choice("kind", get_args(Kind), "container"),
        command=_listed(page, "command"),
        env=_pairs(page, "env", lambda name, _: "" if _WORD.fullmatch(name) else "is no name of a variable"),
        cpu=cpu,
        cpu_limit=limit,
        memory=_memory(page),
        ports=ports,
        volumes=_pairs(page, "volumes", _volume_fault),
        health=_read_health(page, ports),
    )


def read_labels(page: Section) -> Pairs:
    """``labels`` of a service or a node."""
    return _pairs(page, "labels", _label_fault)


def read_ports(page: Section) -> tuple[tuple[str, int], ...]:
    """``ports``: each a number, or ``auto``, which is 0."""
    found = []
    for name, text in _pairs(page, "ports", _port_fault):
        found.append((name, 0 if text == "auto" else int(text)))
    numbers = [number for _, number in found if number]
    if len(found) > MAX_PORTS:
        page.error("ports", f"{len(found)} ports; at most {MAX_PORTS}")
    if len(set(numbers)) != len(numbers):
        page.error("ports", "the same port stands here twice")
    return tuple(found)


def _port_fault(name: str, text: str) -> str:
    if not NAME.fullmatch(name):
        return "is no name of a port: small letters, digits and hyphens"
    is_port = re.fullmatch(r"[1-9][0-9]{0,4}", text) and int(text) < 65536
    return "" if text == "auto" or is_port else "must be a port from 1 to 65535, or auto"


def _volume_fault(name: str, path: str) -> str:
    if not NAME.fullmatch(name):
        return "is no name of a volume: small letters, digits and hyphens"
    steps = path.split("/")
    return "" if path.startswith("/") and ".." not in steps and "\0" not in path else "must be an absolute path"


def _label_fault(name: str, text: str) -> str:
    return "" if LABEL.fullmatch(name) and LABEL.fullmatch(text) else "must be words of letters, digits and ._-"


def _read_health(page: Section, ports: tuple[tuple[str, int], ...]) -> Health | None:
    table = page.table("health")
    if table is None:
        return None
    health = Health(table.needed("port"), _bounded(table, "path", table.text("path")), table.seconds("every", 5.0))
    if health.port not in dict(ports):
        table.error("port", f"{health.port!r} is none of the service's ports")
    if health.path and not re.fullmatch(r"/[!-~]*", health.path):
        table.error("path", "expected the path of a URL, such as /healthz")
    if health.every < 0.1:
        table.error("every", "more often than ten times a second is too often")
    table.finish()
    return health


def _read_upgrade(page: Section) -> Upgrade:
    table = page.table("upgrade")
    if table is None:
        return Upgrade()
    upgrade = Upgrade(
        table.integer("at-once", 1, 1, MAX_REPLICAS), table.seconds("settle", 10.0), table.seconds("deadline", 300.0)
    )
    if upgrade.deadline <= 0:
        table.error("deadline", "nothing is ready at once: give it some seconds")
    table.finish()
    return upgrade


def _cores(page: Section, key: str, default: str, least: int) -> int:
    text = page.text(key, default).strip()
    match = _CORES.fullmatch(text)
    thousandths = int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0")) if match else 0
    if not least <= thousandths <= MAX_CPU:
        page.error(key, f"expected cores, from {least / 1000:g} to {MAX_CPU // 1000}")
    return thousandths


def _memory(page: Section) -> int:
    memory = page.size("memory", 64 << 20)
    if not 0 < memory <= MAX_MEMORY:
        page.error("memory", f"expected at least a byte, and at most {MAX_MEMORY >> 30}G")
    return memory


def _pairs(page: Section, key: str, fault: Callable[[str, str], str]) -> Pairs:
    table = page.table(key)
    if table is None:
        return ()
    if len(table.tree.items) > MAX_LIST:
        page.error(key, f"{len(table.tree.items)} entries; at most {MAX_LIST}")
        return ()
    found = []
    for name in table:
        text = _bounded(table, name, table.text(name))
        if wrong := fault(name, text):
            table.error(name, f"{name[:64]!r} {wrong}")
        else:
            found.append((name, text))
    return tuple(sorted(found))


def _names(page: Section, key: str) -> tuple[str, ...]:
    found = _listed(page, key)
    for name in found:
        if not NAME.fullmatch(name):
            page.error(key, f"{name[:64]!r} is no name of a service")
    return tuple(sorted(set(found)))


def _listed(page: Section, key: str) -> tuple[str, ...]:
    found = page.texts(key)
    if len(found) > MAX_LIST:
        page.error(key, f"{len(found)} entries; at most {MAX_LIST}")
    return tuple(_bounded(page, key, text) for text in found)


def _named(page: Section, key: str, pattern: re.Pattern[str], expected: str) -> str:
    text = page.needed(key)
    if text and not pattern.fullmatch(text):
        page.error(key, f"expected {expected}")
    return text


def _bounded(page: Section, key: str, text: str) -> str:
    if len(text) > MAX_TEXT:
        page.error(key, f"{len(text)} characters; at most {MAX_TEXT}")
        return ""
    return text
