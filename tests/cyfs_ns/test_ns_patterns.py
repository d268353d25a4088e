"""Regexes of strangers: asked together, and those that back-track under a limit."""

from __future__ import annotations

import pytest

from cyfs_ns.errors import ConfigFault
from cyfs_ns.patterns import PatternSet, backtracks, check_regex


@pytest.mark.parametrize(
    ("pattern", "slow"),
    [
        (r"^ads?\.", False),
        (r"^(?!ads\.).*\.example$", True),
        (r"(?<=x)y", True),
        (r"(a)\1", True),
        ("(a", False),
        ("a" * 10 + "{2000}", True),
    ],
)
def test_which_regexes_need_to_look_around(pattern, slow):
    assert backtracks(pattern) is slow


def test_both_kinds_are_asked_and_counted_alike():
    patterns = [r"^ads\.", r"^(?!ads\.).*\.example$", r"EXAMPLE$", r"(.)\1\1\."]
    found = PatternSet(patterns, lookaround=True)
    assert sorted(found.matches("ads.example")) == [0, 2]
    assert sorted(found.matches("www.example")) == [1, 2, 3]


def test_look_around_only_where_allowed():
    with pytest.raises(ConfigFault, match="RE2"):
        PatternSet([r"(?=a)b"])
    with pytest.raises(ConfigFault, match="64 at most"):
        PatternSet([f"(?=a)b{n}" for n in range(65)], lookaround=True)


def test_a_regex_that_explodes_matches_nothing_and_says_so(caplog):
    # Alternatives that overlap, of a form the engine's shortcuts do not see through.
    found = PatternSet([r"(?=a)^(?:a|aa|aaa|a(?:a|aa))+(?!b)c$", "^aaaa"], lookaround=True)
    assert found.matches("a" * 200 + "b") == [1]
    assert "takes too long" in caplog.text


@pytest.mark.timeout(20)  # the engine would need minutes, and all memory
@pytest.mark.parametrize(
    "pattern",
    [
        "((((a{1000}){1000}){1000}))",
        "(?=b)(((a{1000}){1000}){1000})",
        "(?=b)a{300000}",
        "(?x)(?=b)a{9 9 9 9 9 9 9}",
        "(?i-mx:a{9#}\n999999})(?=b)",
        "(?=b)a{" + "9" * 5000 + "}",
    ],
)
def test_repeats_that_would_fill_the_memory_are_not_written_out(pattern):
    assert not backtracks(pattern)
    with pytest.raises(ConfigFault):
        PatternSet([pattern], lookaround=True)


def test_repeats_of_every_day_are_counted_as_they_nest():
    uuid = r"^(?!0{8})[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.(?:[a-z]{2,63}\.){2}example$"
    assert backtracks(uuid)
    with pytest.raises(ConfigFault, match="simpler"):
        PatternSet([f"(?=b)a{{9000}}{n}" for n in range(3)], lookaround=True)


def test_what_is_no_regex_is_told_in_plain_text():
    assert check_regex("a") == ""
    assert check_regex("(a").startswith("missing")
