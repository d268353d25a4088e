"""The manual page says what the program does: every key, every command and option, and examples that load."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cyfs_ns.config.dns
import cyfs_ns.config.house
from cyfs_ns.config.identity import load_identity
from cyfs_ns.config.load import load_dns
from cyfs_ns.io.cli import _COMMANDS, main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cyfs-ns.md").read_text()
SECTIONS = {"section", "table", "top", "pause", "from_file"}
NO_KEYS = {"dns", "hosts"}


def keys_read() -> Iterator[str]:
    """Every literal key that the readers of the ``dns`` section ask a section for."""
    for module in (cyfs_ns.config.dns, cyfs_ns.config.house):
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if not isinstance(node, ast.Call):
                continue
            given = [node.func.value, *node.args] if isinstance(node.func, ast.Attribute) else list(node.args)
            for before, key in itertools.pairwise(given):
                if isinstance(before, ast.Name) and before.id in SECTIONS and isinstance(key, ast.Constant):
                    yield str(key.value)


def commands() -> dict[str, click.Command]:
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in _COMMANDS}
    return {name: command for name, command in found.items() if command is not None}


def test_the_scan_finds_keys_of_every_kind() -> None:
    assert {"listen", "cache", "max-ttl", "nameserver-policy", "records", "nftset", "privacy", "days"} <= set(
        keys_read()
    )


@pytest.mark.parametrize("key", sorted(set(keys_read()) - NO_KEYS))
def test_every_key_stands_in_the_page(key: str) -> None:
    assert re.search(rf"`(?:[a-z\[\]-]+\.)?{re.escape(key)}`", PAGE), f"docs/cyfs-ns.md does not tell of {key!r}"


def test_every_example_loads() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert examples
    for example in examples:
        faults = (
            load_identity(example.encode())[1] if example.startswith("identity:") else load_dns(example.encode()).faults
        )
        assert faults == ()


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_and_option_stands_in_the_page(name: str) -> None:
    sections = "".join(re.findall(rf"^### `cyfs-ns {name}\b.*?(?=^##)", PAGE, re.M | re.S))
    assert sections, f"no section about {name}"
    command = commands()[name]
    for option in (one for one in command.params if isinstance(one, click.Option)):
        assert any(each in sections for each in option.opts) or "--home" in option.opts, option.opts


def test_the_examples_are_commands_there_are() -> None:
    lines = re.findall(r"^    (cyfs-ns .+)$", PAGE.partition("## Examples")[2], re.M)
    assert len(lines) >= 5
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part)
            command = commands()[words[1]]
            known = {option for one in command.params if isinstance(one, click.Option) for option in one.opts}
            assert [word for word in words[2:] if word.startswith("-") and word not in known] == []


def test_the_unit_starts_what_there_is() -> None:
    unit = (ROOT / "contrib" / "cyfs-ns.service").read_text()
    started = re.search(r"^ExecStart=(.+)$", unit, re.M)
    assert started
    words = shlex.split(started[1])
    known = {option for one in commands()[words[1]].params for option in one.opts}
    assert [word for word in words[2:] if word.startswith("-") and word not in known] == []


def test_help_lists_every_command_as_it_calls_itself() -> None:
    for name, command in commands().items():
        assert command.name == name
        assert command.help, name
