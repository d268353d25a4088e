"""A stranger's XML as a small tree: what UPnP needs of it, and nothing else of XML.

expat reads it, which is in the standard library: with document types refused there are no entities to expand or to
fetch, so nothing is left for another library to guard.  Prefixes are dropped, attributes and comments too.  Size,
depth and number of elements are bounded; everything is read as UTF-8, whatever the document says of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from cyfs_ns.errors import BadWire

MAX_SIZE: Final = 1 << 16

_MAX_DEPTH = 32
_MAX_ELEMENTS = 2048


@dataclass(slots=True)
class Element:
    """One element, with the text that stands directly in it."""

    name: str
    """Without prefix."""
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def get(self, name: str) -> str:
        """The text of the first child called so, without the space around it; or empty."""
        return next((child.text.strip() for child in self.children if child.name == name), "")

    def walk(self) -> Iterator[Element]:
        """This element and all below, as they stand."""
        yield self
        for child in self.children:
            yield from child.walk()


def read_xml(untrusted: bytes) -> Element:
    """The root of a document.  Raises ``BadWire``."""
    if len(untrusted) > MAX_SIZE:
        raise BadWire(f"XML: {len(untrusted)} octets")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        parser.Parse(untrusted.decode(errors="replace").strip("\0 \r\n\t\ufeff"), True)
    except expat.ExpatError as fault:
        raise BadWire(f"XML: {fault}") from None
    return reader.top.children[0]


class _Reader:
    def __init__(self) -> None:
        self.top = Element("")
        self._open = [self.top]
        self._count = 0

    def doctype(self, *_: object) -> None:
        raise BadWire("XML: a document type")

    def start(self, name: str, _: object) -> None:
        self._count += 1
        if len(self._open) > _MAX_DEPTH or self._count > _MAX_ELEMENTS:
            raise BadWire("XML: too deep or too many elements")
        element = Element(name.rpartition(":")[2])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._open[-1].text += text
