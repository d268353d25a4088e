"""Who may measure the way to here, as it is written."""

from __future__ import annotations

import pytest

from cyfs_gateway.config.load import load


def conditions(text: str) -> list[str] | None:
    loaded = load(f"rtcp: {{{text}}}".encode(), home="/h")
    assert loaded.faults == (), loaded.faults
    assert loaded.config is not None
    assert loaded.config.rtcp is not None
    rules = loaded.config.rtcp.speedtest
    return None if rules is None else [f"{rule.word},{rule.payload}" for rule in rules]


def test_without_the_key_it_is_for_the_same_owner_and_an_empty_list_is_for_nobody() -> None:
    assert conditions("") is None
    assert conditions("speedtest: {allow: []}") == []
    assert conditions("speedtest: {}") == []


def test_conditions_are_those_of_services() -> None:
    assert conditions("speedtest: {allow: ['did:web:a.example', 'ZONE,home.example']}") == [
        "DID,did:web:a.example",
        "ZONE,did:web:home.example",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "speedtest: {allow: ['NONSENSE,x']}",
        "speedtest: 7",
        "speedtest: {allow: ['MATCH,x']}",
        "speedtest: {allow: ['AND,((RULE-SET,ads),(NETWORK,tcp))']}",
    ],
)
def test_what_is_no_condition_is_a_fault(text: str) -> None:
    assert load(f"rtcp: {{{text}}}".encode(), home="/h").errors


def test_other_keys_are_unknown() -> None:
    (fault,) = load(b"rtcp: {speedtest: {deny: []}}", home="/h").faults
    assert (fault.severity, fault.path) == ("warning", "/rtcp/speedtest/deny")
