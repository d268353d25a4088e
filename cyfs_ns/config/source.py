"""YAML as a tree that remembers where everything stands, for files that may come from strangers.

The tree is built from libyaml's events without recursion, so depth costs us nothing and is bounded all the same.  An
alias shares the node it names; what a file would grow to with every alias written out is *counted* instead, and
bounded: that is the alias bomb.  Merge keys (``<<``) are folded in here, the mapping's own keys winning and earlier
sources winning over later ones.  Scalars stay text: whether ``on`` is a boolean or a name is for whoever knows what
belongs there.

Absent on purpose: every tag that makes objects.  ``!env`` and ``!file`` are kept as tags; only the reader that was
handed an environment looks behind them, so the same parser is safe for subscriptions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from cyfs_ns.errors import BadWire

MAX_BYTES = 64 * 1024 * 1024
MAX_NODES = 2_000_000
"""Nodes of the tree with every alias written out."""
MAX_DEPTH = 64

_MAX_TAG_LINES = 64
"""libyaml compares every ``%TAG`` line with all before it, which a hostile file turns into minutes."""

_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_CORE + name for name in ("str", "int", "float", "bool", "null", "timestamp"))
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadYaml(BadWire):
    """This is no YAML that we read; ``line`` and ``column`` count from 1, 0 when there is no place."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message[:400])
        self.message = message[:400]
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}" if self.line else self.message


@dataclass(slots=True, eq=False)
class Scalar:
    """Text, ``plain`` when it stood without quotes.  ``tag`` is ``env``, ``file``, ``str`` or empty."""

    text: str
    plain: bool
    tag: str
    line: int
    column: int


@dataclass(slots=True, eq=False)
class Seq:
    items: list[Node]
    line: int
    column: int


@dataclass(slots=True, eq=False)
class Map:
    """Keys are text, ``123:`` included.  ``places`` has the line and column of each key."""

    items: dict[str, Node]
    line: int
    column: int
    places: dict[str, tuple[int, int]] = field(default_factory=dict)


Node: TypeAlias = Scalar | Seq | Map


@dataclass(slots=True, eq=False)
class _Open:
    """A collection whose end has not come: ``size`` and ``height`` are those of its content so far."""

    node: Seq | Map
    anchor: str | None
    size: int = 1
    height: int = 1
    key: Scalar | None = None
    merge: Node | None = None


def parse_yaml(untrusted: bytes) -> tuple[Node | None, int]:
    """The first document as a tree (None: empty), and the line on which a second document starts (0: there is none).

    Raises ``BadYaml``, and nothing else, on any bytes.
    """
    if len(untrusted) > MAX_BYTES:
        raise BadYaml(f"the file has {len(untrusted)} bytes; at most {MAX_BYTES} are read")
    try:
        text = untrusted.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        before = untrusted[: bad.start]
        line_start = before.rfind(b"\n") + 1
        raise BadYaml("this is not UTF-8 text", before.count(b"\n") + 1, bad.start - line_start + 1) from None
    if text.count("%TAG") > _MAX_TAG_LINES:
        raise BadYaml("more %TAG directives than any file needs")
    try:
        loader = _Loader(text)
        try:
            return _Builder(loader).build()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as bad:
        mark = bad.problem_mark or bad.context_mark
        message = ", ".join(part for part in (bad.context, bad.problem) if part) or "malformed YAML"
        raise BadYaml(message, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0) from None
    except yaml.reader.ReaderError as bad:
        start = text[: bad.position]
        raise BadYaml(
            f"character {bad.character!r} is not allowed in YAML",
            start.count("\n") + 1,
            len(start) - start.rfind("\n"),
        ) from None
    except (yaml.YAMLError, UnicodeError) as bad:
        raise BadYaml(f"malformed YAML: {bad}") from None


def tree_of(value: Any, depth: int = MAX_DEPTH) -> Node:
    """Plain data (of JSON, or of an ``override``) as a tree without places.  Raises ``BadYaml`` on anything else."""
    if depth == 0:
        raise BadYaml(f"nested more than {MAX_DEPTH} levels deep")
    match value:
        case None | bool() | int() | float():
            return Scalar("null" if value is None else str(value), True, "", 0, 0)
        case str():
            return Scalar(value, False, "", 0, 0)
        case list() | tuple():
            return Seq([tree_of(item, depth - 1) for item in value], 0, 0)
        case dict():
            return Map({str(key): tree_of(item, depth - 1) for key, item in value.items()}, 0, 0)
        case _:
            raise BadYaml(f"a {type(value).__name__} cannot stand here")


class _Builder:
    def __init__(self, loader: Any) -> None:
        self._next = loader.get_event
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}
        self._stack: list[_Open] = []
        self._root: Node | None = None

    def build(self) -> tuple[Node | None, int]:
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.SequenceStartEvent():
                    self._begin(event, Seq([], *_place(event)))
                case yaml.MappingStartEvent():
                    self._begin(event, Map({}, *_place(event)))
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._end()
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.DocumentStartEvent() if self._root is not None:
                    return self._root, _place(event)[0]
                case _:
                    pass
        root = self._root
        if isinstance(root, Scalar) and root.plain and not root.text:
            return None, 0
        return root, 0

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        line, column = _place(event)
        tag = ""
        if event.tag is not None and event.tag != "!":
            if event.tag in ("!env", "!file"):
                tag = event.tag[1:]
            elif event.tag in _SCALAR_TAGS:
                tag = "str" if event.tag == _CORE + "str" else ""
            else:
                raise BadYaml(f"unknown tag {_shown_tag(event.tag)}", line, column)
        node = Scalar(event.value, event.implicit[0] and not tag, tag, line, column)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1, 0)
        self._put(node, 1, 0, line, column)

    def _begin(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent, node: Seq | Map) -> None:
        if event.tag not in (None, "!", _CORE + "seq", _CORE + "map"):
            raise BadYaml(f"unknown tag {_shown_tag(event.tag)}", node.line, node.column)
        if len(self._stack) >= MAX_DEPTH:
            raise BadYaml(f"nested more than {MAX_DEPTH} levels deep", node.line, node.column)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor))

    def _end(self) -> None:
        done = self._stack.pop()
        if isinstance(done.node, Map) and done.merge is not None:
            _fold(done.node, done.merge)
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.node, done.size, done.height)
        self._put(done.node, done.size, done.height, done.node.line, done.node.column)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line, column = _place(event)
        if event.anchor not in self._anchors:
            raise BadYaml(f"alias *{event.anchor} names no anchor before it", line, column)
        known = self._anchors[event.anchor]
        if known is None:
            raise BadYaml(f"alias *{event.anchor} stands inside what it names", line, column)
        node, size, height = known
        if len(self._stack) + height > MAX_DEPTH:
            raise BadYaml(f"nested more than {MAX_DEPTH} levels deep", line, column)
        self._put(node, size, height, line, column)

    def _put(self, node: Node, size: int, height: int, line: int, column: int) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.size += size
        if parent.size > MAX_NODES:
            raise BadYaml(f"more than {MAX_NODES} values once its aliases are written out", line, column)
        parent.height = max(parent.height, height + 1)
        container = parent.node
        if isinstance(container, Seq):
            container.items.append(node)
        elif parent.key is None:
            if not isinstance(node, Scalar) or node.tag in ("env", "file"):
                raise BadYaml("a key must be plain text", line, column)
            parent.key = node
        else:
            key, parent.key = parent.key, None
            if key.plain and key.text == "<<":
                if parent.merge is not None:
                    raise BadYaml("key '<<' stands here twice; give it a list", key.line, key.column)
                _check_merge(node, line, column)
                parent.merge = node
                return
            if key.text in container.items:
                first = container.places[key.text][0]
                raise BadYaml(f"key {key.text!r} stands here twice, first on line {first}", key.line, key.column)
            container.items[key.text] = node
            container.places[key.text] = (key.line, key.column)


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _check_merge(node: Node, line: int, column: int) -> None:
    sources = node.items if isinstance(node, Seq) else [node]
    if not all(isinstance(source, Map) for source in sources):
        raise BadYaml("'<<' takes a mapping or a list of mappings", line, column)


def _fold(node: Map, merge: Node) -> None:
    for source in merge.items if isinstance(merge, Seq) else [merge]:
        if isinstance(source, Map):
            for key, value in source.items.items():
                if key not in node.items:
                    node.items[key] = value
                    node.places[key] = source.places[key]


def _shown_tag(tag: str) -> str:
    return "!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag
