"""A test that cannot run is a failure where everything has to run, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import may_skip

ROOT = Path(__file__).parent.parent

TESTS = """
import pytest

def test_without_its_peer():
    pytest.skip("needs the real thing (Debian package thing)")

@pytest.fixture
def peer():
    pytest.skip("needs thingd")

def test_without_its_fixture(peer): ...

@pytest.mark.skipif(True, reason="needs a mark")
def test_marked(): ...

def test_where_the_kernel_is_in_the_way():
    pytest.skip("needs ipset in the kernel")

@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail():
    raise AssertionError

def test_that_runs(): ...
"""


@pytest.mark.parametrize(
    ("must", "counts", "told"),
    [
        ("1", "1 failed, 1 passed, 1 skipped, 1 xfailed, 3 errors", ["the real thing", "thingd", "a mark", "wholed"]),
        ("", "1 passed, 5 skipped, 1 xfailed", []),
    ],
)
def test_what_cannot_run_fails_where_everything_must(must: str, counts: str, told: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text('import pytest\npytest.skip("needs wholed", allow_module_level=True)\n')
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_make_collect_report, pytest_runtest_makereport"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            "-c",
            ROOT / "pyproject.toml",
            tmp_path,
        ],
        cwd=ROOT,
        env={**os.environ, "CYFS_TESTS_MUST_RUN": must},
        capture_output=True,
        text=True,
        check=False,
    )
    assert counts in done.stdout.splitlines()[-1], done.stdout
    assert [reason for reason in told if f"it did not run: needs {reason}" not in done.stdout] == []


def test_only_what_no_installation_gives_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in (
        "needs dnsmasq",
        "netns-lab needs nft: apt install",
        "tools/install-chain installs solc",
        "needs rootd",
    ):
        assert not may_skip(reason)
    for uid, may in ((0, False), (1000, True)):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert may_skip("needs root: binds port 53") is may
