"""The manual's examples load as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from cyfs_gateway.config.load import DEFAULT_YAML, load
from cyfs_ns.config.written import FileText

_PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_every_example_loads() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    assert len(examples) == 5
    environ = {"LOGIN": "user:password", "GUEST": "x"}
    for example in examples:
        loaded = load(
            example.encode(), home="/h", environ=environ, read_file=lambda path: FileText(b"s", exposed=False)
        )
        assert loaded.faults == (), example


def test_the_defaults_are_those_of_the_program() -> None:
    example = re.findall(r"```yaml\n(.*?)```", _PAGE.read_text(), re.DOTALL)[0]
    assert load(example.encode(), home="/h") == load(DEFAULT_YAML, home="/h")
