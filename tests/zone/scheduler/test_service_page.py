"""The page of a service: what each key comes to, what is said of a wrong one and where, and that nothing breaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyfs_ns.config.source import Map, tree_of
from cyfs_ns.config.written import Reader, Section
from zone.scheduler.service import Health, LoadedService, ServiceSpec, Upgrade, Work, load_service, read_service

FULL = b"""\
service: notes
image: notes:1.4
kind: container
command: [notes, --listen, "0.0.0.0:$PORT_HTTP"]
env: {LANG: C.UTF-8}
cpu: 0.5
cpu-limit: 1.25
memory: 256M
ports: {http: auto, metrics: 9100}
volumes: {data: /var/lib/notes}
health: {port: http, path: /healthz, every: 2s}
replicas: 2
labels: {disk: ssd}
near: [db]
apart: [search]
spread: room
grace: 90s
upgrade: {at-once: 2, settle: 20s, deadline: 2m}
"""

MEANT = ServiceSpec(
    name="notes",
    work=Work(
        image="notes:1.4",
        kind="container",
        command=("notes", "--listen", "0.0.0.0:$PORT_HTTP"),
        env=(("LANG", "C.UTF-8"),),
        cpu=500,
        cpu_limit=1250,
        memory=256 << 20,
        ports=(("http", 0), ("metrics", 9100)),
        volumes=(("data", "/var/lib/notes"),),
        health=Health("http", "/healthz", 2.0),
    ),
    replicas=2,
    labels=(("disk", "ssd"),),
    near=("db",),
    apart=("search",),
    spread="room",
    grace=90.0,
    upgrade=Upgrade(2, 20.0, 120.0),
)


def told(text: str) -> list[str]:
    return [str(fault) for fault in load_service(text.encode()).faults]


def test_a_whole_page_is_meant_as_written() -> None:
    assert load_service(FULL) == LoadedService(MEANT)


def test_a_page_needs_a_name_and_an_image_and_nothing_else() -> None:
    assert load_service(b"service: a\nimage: b\n") == LoadedService(ServiceSpec(name="a", work=Work(image="b")))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("service: scheduler", "3:10: error: /service: 'scheduler' is a part of this program"),
        ("service: verify-hub", "3:10: error: /service: 'verify-hub' is a part of this program"),
        ("service: Notes", "3:10: error: /service: expected a name of small letters, digits and hyphens"),
        ("kind: vm", "3:7: error: /kind: expected one of container, process, script; found 'vm'"),
        ("cpu: lots", "3:6: error: /cpu: expected cores, from 0.001 to 1000"),
        ("cpu: 0", "3:6: error: /cpu: expected cores, from 0.001 to 1000"),
        ("cpu-limit: 0.001", "3:12: error: /cpu-limit: expected cores, from 0.1 to 1000"),
        ("memory: 0", "3:9: error: /memory: expected at least a byte, and at most 512G"),
        ("memory: 600G", "3:9: error: /memory: expected at least a byte, and at most 512G"),
        ("ports: {http: 0}", "3:15: error: /ports/http: 'http' must be a port from 1 to 65535, or auto"),
        ("ports: {a: 80, b: 80}", "3:8: error: /ports: the same port stands here twice"),
        ("volumes: {data: here}", "3:17: error: /volumes/data: 'data' must be an absolute path"),
        ("volumes: {data: /a/../b}", "3:17: error: /volumes/data: 'data' must be an absolute path"),
        ("env: {A B: x}", "3:12: error: /env/A B: 'A B' is no name of a variable"),
        ("health: {port: http}", "3:16: error: /health/port: 'http' is none of the service's ports"),
        ("replicas: -1", "3:11: error: /replicas: -1 is out of range: 0 to 100"),
        ("labels: {a: 'x y'}", "3:13: error: /labels/a: 'a' must be words of letters, digits and ._-"),
        ("apart: [a]", "3:8: error: /apart: a service never stands twice on a node; it need not be apart from itself"),
        ("near: [A]", "3:7: error: /near: 'A' is no name of a service"),
        ("upgrade: {at-once: 0}", "3:20: error: /upgrade/at-once: 0 is out of range: 1 to 100"),
        ("upgrade: {deadline: 0}", "3:21: error: /upgrade/deadline: nothing is ready at once: give it some seconds"),
        ("env: {A: !env HOME}", "3:10: error: /env/A: !env is not allowed here"),
        ("replica: 2", "3:1: warning: /replica: unknown key 'replica', ignored; did you mean 'replicas'?"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(line: str, fault: str) -> None:
    head = "image: b\nnothing: null\n" if line.startswith("service") else "service: a\nimage: b\n"
    assert fault in told(head + line)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1:1: error: /: the page is empty"),
        ("- a", "1:1: error: /: expected a mapping, found a list"),
        ("image: b", "1:1: error: /: 'service' is missing"),
        ("service: a\nimage: [", "error: /: while parsing"),
        ("service: a\nimage: b\n---\nservice: c\n", "3:1: error: /: one page declares one service"),
        ("service: a\nimage: b\n" + "#" * (64 * 1024), "the page has"),
        ("service: a\nimage: b\ncommand: [" + "x, " * 65 + "]", "3:10: error: /command: 65 entries; at most 64"),
        ("service: a\nimage: b\nports: {" + "".join(f"p{n}: auto, " for n in range(17)) + "}", "17 ports; at most 16"),
        (
            "service: a\nimage: b\ncommand: [" + ('"' + "\\a" * 2000 + '", ') * 6 + "]",
            "bytes of JSON; at most 65536 are kept",
        ),
        ("service: a\nimage: " + "b" * 5000, "2:8: error: /image: 5000 characters; at most 4096"),
    ],
)
def test_what_is_no_page_is_no_service(text: str, fault: str) -> None:
    assert load_service(text.encode()).spec is None
    assert any(fault in said for said in told(text)), told(text)


def test_all_faults_come_out_at_once() -> None:
    assert len(told("service: A\nimage: ''\ncpu: x\nmemory: y\nreplicas: z\n")) == 5


def test_the_version_is_of_the_work_alone() -> None:
    def version(**said: Any) -> str:
        spec = load_service(json.dumps({"service": "a", "image": "b"} | said).encode()).spec
        assert spec is not None
        return spec.work.version

    assert version() == version(replicas=3) == version(labels={"a": "b"}) == version(upgrade={"settle": 1})
    others = {version(image="c"), version(env={"A": "1"}), version(memory="1G"), version(ports={"a": 1})}
    assert len(others | {version()}) == 5


names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
seconds = st.floats(0.1, 1e6)


def pairs(keys: st.SearchStrategy[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.dictionaries(keys, values, max_size=4).map(lambda found: tuple(sorted(found.items())))


ports = st.dictionaries(names, st.just(0), max_size=3).map(lambda found: tuple(sorted(found.items())))
works = st.builds(
    Work,
    image=texts.filter(str.strip),
    kind=st.sampled_from(("container", "process", "script")),
    command=st.lists(texts, max_size=4).map(tuple),
    env=pairs(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), texts),
    cpu=st.integers(1, 1_000_000),
    cpu_limit=st.sampled_from((0, 1_000_000)),
    memory=st.integers(1, 1 << 39),
    ports=st.one_of(ports, st.just((("http", 80), ("x", 0)))),
    volumes=pairs(names, st.from_regex(r"/[a-z]{1,5}", fullmatch=True)),
)
specs = st.builds(
    ServiceSpec,
    name=names,
    work=works,
    replicas=st.integers(0, 100),
    labels=pairs(words, words),
    near=st.lists(names, max_size=3, unique=True).map(sorted).map(tuple),
    spread=st.one_of(st.just(""), words),
    grace=seconds,
    upgrade=st.builds(Upgrade, st.integers(1, 9), seconds, seconds),
)


@given(specs)
def test_what_is_kept_in_the_store_is_read_back_as_it_was(spec: ServiceSpec) -> None:
    tree = tree_of(json.loads(json.dumps(spec.as_page())))
    assert isinstance(tree, Map)
    reader = Reader()
    assert read_service(Section(reader, tree, "")) == spec
    assert reader.faults() == ()


@given(st.binary(max_size=300))
@example(b"\xff")
@example(b"a: &a [*a]")
def test_no_bytes_break_the_reader(data: bytes) -> None:
    loaded = load_service(data)
    assert loaded.spec is not None or loaded.faults


@given(st.data())
def test_no_bent_page_breaks_the_reader(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FULL)))
    loaded = load_service(FULL[:at] + data.draw(st.binary(max_size=8)) + FULL[data.draw(st.integers(at, len(FULL))) :])
    assert loaded.spec is not None or loaded.faults
