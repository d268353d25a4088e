"""The house keeps its shape: a floor imports only the floors below it, and what should be pure is pure.

The first rule is import-linter's (its contract stands in ``pyproject.toml``).  The second is read from the source here:
everything outside ``io/`` computes, and whatever it needs of the world (bytes, the time, random bits) is handed to it.
``modules/`` is the one exception: a module of the gateway is a task, so it may use trio, and nothing else of the world.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("cyfs_ns", "rtcp", "tunnels", "cyfs_gateway", "zone", "node")

TASKS = {"asyncio", "concurrent", "multiprocessing", "sched", "signal", "subprocess", "threading", "trio"}
WIRES = {"ftplib", "http", "pyroute2", "requests", "select", "selectors", "socketserver", "ssl"}
FILES = {"fcntl", "glob", "importlib", "mmap", "os", "pathlib", "shutil", "sys", "tempfile"}
CLOCKS_AND_DICE = {"random", "secrets", "time"}
WORLDLY = frozenset(TASKS | WIRES | FILES | CLOCKS_AND_DICE)
WORLDLY_PARTS = frozenset({"urllib.request", "urllib.error", "io.open", "io.FileIO", "uuid.uuid1", "uuid.uuid4"})
SOCKET_ARITHMETIC = ("AF_", "IPPROTO_", "SOCK_", "inet_", "hton", "ntoh")
"""Of ``socket``: numbers, and the text form of addresses.  ``inet_aton`` and friends open nothing."""
ASKING = frozenset({"now", "utcnow", "today", "uuid1", "uuid4"})
"""Of ``datetime`` and ``uuid``: the rest is arithmetic, these ask a clock or roll a die."""
OPENERS = frozenset({"open", "input", "print", "exec", "eval", "__import__"})
OPEN_METHODS = frozenset({"read_text", "read_bytes", "write_text", "write_bytes"})


def offences(source: str, *, may: frozenset[str] = frozenset()) -> list[str]:
    """What in ``source`` reaches for the world, as ``line: what``; ``may`` are packages it may use all the same."""
    return [f"{line}: {what}" for line, what in _offences(ast.parse(source), may)]


def _offences(tree: ast.Module, may: frozenset[str]) -> Iterator[tuple[int, str]]:
    sockets, askable = set(), set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            for alias in node.names:
                bound = alias.asname or alias.name
                if alias.name == "socket":
                    sockets.add(bound)
                elif alias.name in ("datetime", "uuid"):
                    askable.add(bound)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            askable |= {alias.asname or alias.name for alias in node.names if node.module == "datetime"}
        for name in names:
            package = name.partition(".")[0]
            if package in WORLDLY - may or name in WORLDLY_PARTS or name.startswith("urllib.request."):
                yield node.lineno, f"imports {name}"
            elif name.startswith("socket.") and not name.startswith(
                tuple(f"socket.{part}" for part in SOCKET_ARITHMETIC)
            ):
                yield node.lineno, f"imports {name} instead of bytes and numbers"
            elif package in FLOORS and "io" in name.split("."):
                yield node.lineno, f"imports {name}, which is shell"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root = node.value.id if isinstance(node.value, ast.Name) else ""
            if root in sockets and not node.attr.startswith(SOCKET_ARITHMETIC):
                yield node.lineno, f"uses socket.{node.attr}"
            elif node.attr in ASKING and _of(node.value, askable):
                yield node.lineno, f"asks the time or a die by {node.attr}()"
            elif node.attr in OPEN_METHODS:
                yield node.lineno, f"uses a file by {node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OPENERS:
            yield node.lineno, f"calls {node.func.id}()"


def _of(value: ast.expr, names: set[str]) -> bool:
    """Whether ``value`` is one of ``names``, or an attribute of one (``datetime.datetime``)."""
    if isinstance(value, ast.Attribute):
        value = value.value
    return isinstance(value, ast.Name) and value.id in names


def pure_files() -> list[Path]:
    """Every source file of the floors that is not shell."""
    found = [path.relative_to(ROOT) for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    return [path for path in found if "io" not in path.parts]


@pytest.mark.parametrize("path", pure_files(), ids=str)
def test_what_is_outside_io_only_computes(path):
    may = frozenset({"trio"}) if "modules" in path.parts else frozenset()
    assert offences((ROOT / path).read_text(), may=may) == []


@pytest.mark.parametrize(
    "source",
    [
        "import trio",
        "import time",
        "from time import monotonic",
        "from os.path import exists",
        "import os as harmless",
        "def f():\n    import secrets",
        "import urllib.request",
        "from urllib.request import urlopen",
        "from io import FileIO",
        "import socket\nsocket.create_connection(('example', 80))",
        "import socket as s\ns.socket()",
        "from socket import socketpair",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "import uuid\nuuid.uuid4()",
        "from uuid import uuid4",
        "open('/etc/passwd')",
        "def f(path): return path.read_text()",
        "from tunnels.io.reactor import Reactor",
        "from tunnels import io",
    ],
)
def test_the_check_sees_what_reaches_for_the_world(source):
    assert len(offences(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import socket\nsocket.inet_pton(socket.AF_INET6, '::1')",
        "from socket import AF_INET, inet_ntop",
        "from datetime import datetime\ndatetime.fromtimestamp(0)",
        "import uuid\nuuid.uuid5(uuid.NAMESPACE_DNS, 'example')",
        "from io import BytesIO",
        "from urllib.parse import quote",
        "from tunnels.url import TunnelUrl",
        "def f(flow, now): return flow.now(now)",
    ],
)
def test_the_check_lets_arithmetic_pass(source):
    assert offences(source) == []


def test_floors_import_only_floors_below():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_opens_with_its_theory():
    silent = [
        str(path.relative_to(ROOT))
        for floor in FLOORS
        for path in sorted((ROOT / floor).rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
