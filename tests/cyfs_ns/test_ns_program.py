"""``cyfs-ns`` with descriptors that fail or were never there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cyfs_ns.nsprogram import CODE


def run(words: str, joined: str) -> subprocess.CompletedProcess[str]:
    argv = ["sh", "-c", f'"$@" {joined}', "sh", sys.executable, "-c", CODE, *words.split()]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", ["version", "version --json", "--help"])
@pytest.mark.parametrize(
    ("joined", "code", "said"),
    [
        (">/dev/full", 1, "Error: standard output: No space left on device\n"),
        (">&-", 1, "Error: standard output: Bad file descriptor\n"),
        (">&- <&-", 1, "Error: standard output: Bad file descriptor\n"),
        (">&- 2>&-", 1, ""),
        ("2>&- <&-", 0, ""),
    ],
)
def test_what_cannot_be_printed_is_a_failure_and_one_sentence(words: str, joined: str, code: int, said: str) -> None:
    done = run(words, joined)
    assert (done.returncode, done.stderr) == (code, said)
    assert bool(done.stdout) == (code == 0)


def test_a_descriptor_that_was_closed_is_given_to_nothing_else() -> None:
    opened = CODE.replace("main(", "main.callback = lambda **_: print(open('/dev/null').fileno()); main(")
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", sys.executable, "-c", opened, "version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert int(done.stdout.split()[0]) > 2
