"""Lines, batches and the faults they tell of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire, ConfigFault, Misuse
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from zone.klog.line import MOST_LINES, MOST_TEXT, Batch, Line, made, read_batch, read_line, write_batch
from zone.klog.patterns import QUIET, Kind, Patterns, Rule

LIFE = "0123456789abcdef"


def line(message: str = "hello", level: str = "info", service: str = "web") -> Line:
    return Line(1000.5, service, level, message, {"port": "80"})


@given(
    st.floats(), st.sampled_from(["info", "error", "??"]), st.text(), st.dictionaries(st.text(), st.text(), max_size=40)
)
def test_whatever_somebody_says_becomes_a_line_that_travels(
    time: float, level: str, message: str, attrs: dict[str, str]
) -> None:
    said = made(time, "web", level, message, attrs)
    assert read_line(said.text()) == said


def test_the_longest_line_is_read() -> None:
    said = made(0, "web", "info", "\0" * 10_000, {f"{number:064}": "\0" * 600 for number in range(40)})
    assert len(said.text()) <= MOST_TEXT
    assert read_line(said.text()) == said
    assert made(0, "web", "info", "\ud800", {}).message == "?"


@given(st.binary(max_size=300))
def test_strangers_bytes_are_no_line(data: bytes) -> None:
    with pytest.raises(BadWire):
        read_line(data)


@pytest.mark.parametrize(
    "change",
    [
        {"t": "now"},
        {"t": True},
        {"t": -1},
        {"t": 1e300},
        {"s": "a/b"},
        {"s": ""},
        {"l": "loud"},
        {"m": 1},
        {"m": "x" * 8193},
        {"a": []},
        {"a": {"x": 1}},
        {"a": {"x": "y" * 513}},
        {"more": 1},
    ],
)
def test_no_line_is_otherwise(change: dict[str, Json]) -> None:
    with pytest.raises(BadWire):
        read_line(write_json({**read_object(line().text()), **change}))


def test_a_line_of_ours_that_cannot_be_is_our_fault() -> None:
    with pytest.raises(Misuse):
        Line(0, "no service", "info", "")


def test_a_batch_travels() -> None:
    batch = Batch(LIFE, ((3, line()), (7, line("again"))))
    assert read_batch(write_batch(batch)) == batch


@pytest.mark.parametrize(
    "lines",
    [[], "x", [1], [[1]], [["1", "{}"]], [[0, "{}"]], [[True, "{}"]], [[1, {}]], [[1, "{}"]] * (MOST_LINES + 1)],
)
def test_no_batch_is_otherwise(lines: Json) -> None:
    with pytest.raises(BadWire):
        read_batch({"life": LIFE, "lines": lines})


def test_numbers_of_a_batch_grow_and_its_life_has_a_name() -> None:
    text = line().text().decode()
    with pytest.raises(BadWire, match="do not grow"):
        read_batch({"life": LIFE, "lines": [[2, text], [2, text]]})
    with pytest.raises(BadWire, match="of which life"):
        read_batch({"life": "../../etc", "lines": [[2, text]]})


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("web: in a crash loop, next start in 60 s", Kind.CRASH_LOOP),
        ("used more than its 64 MiB of memory", Kind.OUT_OF_MEMORY),
        ("[Errno 28] No space left on device", Kind.DISK_FULL),
        ("etcdserver: no leader", Kind.STORE_AWAY),
    ],
)
def test_faults_that_are_always_looked_for(message: str, kind: Kind) -> None:
    (fault,) = Patterns().look("ood1", [line(message, "warning")], 0.0)
    assert (fault.kind, fault.node, fault.service) == (kind, "ood1", "web")
    assert Patterns().look("ood1", [line(message, "info")], 0.0) == []


def test_a_fault_is_told_once_in_a_while_for_each_service_of_each_machine() -> None:
    patterns = Patterns()
    full, other = line("disk is full", "error"), line("disk is full", "error", "mail")
    assert len(patterns.look("ood1", [full, full, other], 5.0)) == 2
    assert patterns.look("ood1", [full], 5.0 + QUIET / 2) == []
    assert len(patterns.look("ood2", [full], 5.0 + QUIET / 2)) == 1
    assert len(patterns.look("ood1", [full], 5.0 + QUIET)) == 1


def test_what_this_program_says_of_a_service_is_about_the_service() -> None:
    said = Line(1.0, "cyfs.node", "warning", "mail: counts as failed: exited with 1", {"about": "mail"})
    (fault,) = Patterns().look("ood1", [said], 0.0)
    assert (fault.kind, fault.service) == (Kind.CRASH_LOOP, "mail")
    forged = Line(1.0, "web", "warning", "mail: counts as failed: exited with 1", {"about": "mail"})
    (fault,) = Patterns().look("ood1", [forged], 0.0)
    assert fault.service == "web"


def test_the_owners_rules() -> None:
    patterns = Patterns([Rule("smart", r"sector \d+ is bad", "info", "disks")])
    said = line("sector 17 is bad", service="disks")
    assert [fault.rule for fault in patterns.look("nas", [said], 0.0)] == ["smart"]
    assert patterns.look("nas", [line("sector 17 is bad")], 0.0) == []
    with pytest.raises(ConfigFault, match="rule broken"):
        Patterns([Rule("broken", "(")])
    with pytest.raises(ConfigFault):
        Patterns([Rule("loud", "x", "loud")])


def test_services_without_number_hold_only_so_much() -> None:
    patterns = Patterns()
    lines = [line("disk is full", "error", f"s{number}") for number in range(5000)]
    assert len(patterns.look("ood1", lines, 0.0)) == 4096
    assert len(patterns.look("ood1", lines[4096:], QUIET)) == 904
