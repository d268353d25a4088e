"""What is said with the kernel about its sets of addresses: nftables' and ipset's messages over netlink.

Sources: the kernel's ``include/uapi/linux/netfilter/`` (``nfnetlink.h``, ``nf_tables.h``, ``ipset/ip_set.h``).

nftables takes a *transaction*: all of its messages come true, or none.  An address in a set of intervals is two
elements, its own and the next address, which ends the interval and has no timeout.

A set tells about itself (:class:`SetShape`), and one must ask: a timeout for a set without timeouts is an error, and
which addresses a set holds is nowhere written in our rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cyfs_ns.netlink import ACK, CREATE, DUMP, Message, attribute, attributes, message, nested, number, string, text
from cyfs_ns.routersets import SetTarget

NFT_WATCHED_GROUP = 7
"""The multicast group in which nftables tells of its changes."""

_NFT, _IPSET = 10, 6  # subsystems of nfnetlink
_GENERIC_HEAD = 4
_FAMILY = {"inet": 1, "ip": 2, "netdev": 5, "bridge": 7, "ip6": 10}
_FAMILY_NAMES = {number: name for name, number in _FAMILY.items()}

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_SET, _GET_SET, _NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT = 9, 10, 12, 13, 14
_DELETE_TABLE, _DELETE_SET, _DESTROY_TABLE, _DESTROY_SET, _DESTROY_ELEMENT = 2, 11, 26, 29, 30
_MEANINGS = {
    _NEW_SET: "made",
    _DELETE_TABLE: "gone",
    _DESTROY_TABLE: "gone",
    _DELETE_SET: "gone",
    _DESTROY_SET: "gone",
    _DELETE_ELEMENT: "removed",
    _DESTROY_ELEMENT: "removed",
}
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LENGTH = 1, 2, 3, 4, 5
_IS_INTERVAL, _IS_MAP, _HAS_TIMEOUT = 0x4, 0x8, 0x10
_ADDRESS_TYPES = {7: 4, 8: 16}  # nft's own numbers for ipv4_addr and ipv6_addr
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_FLAGS, _ELEMENT_TIMEOUT, _ELEMENT_EXPIRATION = 1, 3, 4, 5
_LIST_ITEM, _DATA_VALUE = 1, 1
_ENDS_INTERVAL = (1).to_bytes(4)

_IPSET_LIST, _IPSET_ADD = 7, 9
_PROTOCOL = attribute(1, b"\6")  # 6 is understood by every kernel since 2.6.39
_IPSET_NAME, _IPSET_FAMILY, _IPSET_FLAGS, _IPSET_DATA = 2, 5, 6, 7
_ONLY_HEADER = attribute(_IPSET_FLAGS | 0x4000, (4).to_bytes(4))
_IP, _TIMEOUT = 1, 6
_BIG_ENDIAN = 0x4000
_IPSET_WIDTHS = {2: 4, 10: 16}


@dataclass(frozen=True, slots=True)
class SetShape:
    """What a set can hold."""

    width: int
    """Octets of its addresses: 4 or 16; 0 where it does not hold addresses alone."""
    intervals: bool = False
    timeouts: bool = False
    """Whether entries may time out, each in its time."""


class Entry(NamedTuple):
    """One address to be put into a set."""

    address: bytes
    timeout: int
    """Seconds; 0: none, the only choice in a set without timeouts."""


class NftEvent(NamedTuple):
    """What somebody did to a set of nftables."""

    family: str
    """Empty: none we know."""
    table: str
    name: str
    """Of a set; empty: all sets of the table."""
    what: str
    """``made``, ``gone`` (the set) or ``removed`` (some of its elements)."""


def nft_describe(target: SetTarget, seq: int) -> bytes:
    """Asks for the shape of a set; the answer is one message for :func:`nft_shape`."""
    body = _generic(_FAMILY[target.family]) + text(_SET_TABLE, target.table) + text(_SET_NAME, target.name)
    return message(_NFT << 8 | _GET_SET, 0, seq, body)


def nft_shape(untrusted: bytes) -> SetShape:
    """The body of the answer to :func:`nft_describe`.  Raises ``BadWire``."""
    found = attributes(untrusted, _GENERIC_HEAD)
    flags = number(found, _SET_FLAGS)
    width = _ADDRESS_TYPES.get(number(found, _SET_KEY_TYPE), 0)
    if flags & _IS_MAP or width != number(found, _SET_KEY_LENGTH):
        width = 0
    return SetShape(width, bool(flags & _IS_INTERVAL), bool(flags & _HAS_TIMEOUT))


def nft_look(target: SetTarget, address: bytes, seq: int) -> bytes:
    """Asks for the element that holds an address; answered by it or ``ENOENT``."""
    return message(_NFT << 8 | _GET_ELEMENT, 0, seq, _elements(target, [_element(address)]))


def nft_is_permanent(untrusted: bytes) -> bool:
    """Whether the element in the body of the answer to :func:`nft_look` never times out.  Raises ``BadWire``."""
    listed = attributes(untrusted, _GENERIC_HEAD).get(_ELEMENTS, b"")
    return _ELEMENT_EXPIRATION not in attributes(attributes(listed).get(_LIST_ITEM, b""))


def nft_add(target: SetTarget, shape: SetShape, entries: Sequence[Entry], seq: int, *, ack: bool) -> bytes:
    """Part of a transaction: puts entries into a set, and gives those already there their new timeout (Linux 6.12)."""
    elements = [element for entry in entries for element in _elements_of(entry, shape)]
    return message(_NFT << 8 | _NEW_ELEMENT, CREATE | (ACK if ack else 0), seq, _elements(target, elements))


def nft_replace(target: SetTarget, shape: SetShape, entries: Sequence[Entry], seq: int, *, ack: bool) -> bytes:
    """As :func:`nft_add` for kernels that leave the timeout of what is there: it goes and comes in one transaction.

    It is added first, as only what is there can be deleted.
    """
    bare = [element for entry in entries for element in _elements_of(Entry(entry.address, 0), shape)]
    flagged = _elements(target, bare)
    return (
        message(_NFT << 8 | _NEW_ELEMENT, CREATE, seq, flagged)
        + message(_NFT << 8 | _DELETE_ELEMENT, 0, seq, flagged)
        + nft_add(target, shape, entries, seq, ack=ack)
    )


def nft_transaction(body: bytes, begin: int) -> bytes:
    """The messages of ``body`` as one transaction; failing as a whole it is answered under the number ``begin``."""
    head = _generic(0, _NFT)
    return message(_BATCH_BEGIN, 0, begin, head) + body + message(_BATCH_END, 0, begin, head)


def nft_event(notice: Message) -> NftEvent | None:
    """What a message of :data:`NFT_WATCHED_GROUP` means for our knowledge of sets.  Raises ``BadWire``."""
    subsystem, kind = divmod(notice.kind, 256)
    meaning = _MEANINGS.get(kind) if subsystem == _NFT else None
    if meaning is None:
        return None
    found = attributes(notice.body, _GENERIC_HEAD)
    name = "" if kind in (_DELETE_TABLE, _DESTROY_TABLE) else string(found, _SET_NAME)
    return NftEvent(_FAMILY_NAMES.get(notice.body[0], ""), string(found, _SET_TABLE), name, meaning)


def ipset_describe(target: SetTarget, seq: int) -> bytes:
    """Asks for the shape of an ipset; the answer has several parts, the first is for :func:`ipset_shape`."""
    return message(
        _IPSET << 8 | _IPSET_LIST, DUMP, seq, _generic(0) + _PROTOCOL + text(_IPSET_NAME, target.name) + _ONLY_HEADER
    )


def ipset_shape(untrusted: bytes) -> SetShape:
    """The body of an answer to :func:`ipset_describe`.  Raises ``BadWire``."""
    found = attributes(untrusted, _GENERIC_HEAD)
    data = attributes(found.get(_IPSET_DATA, b""))
    width = _IPSET_WIDTHS.get(number(found, _IPSET_FAMILY), 0)
    return SetShape(width, False, _TIMEOUT in data)


def ipset_add(target: SetTarget, entry: Entry, seq: int, *, ack: bool) -> bytes:
    """Puts an entry into an ipset; if it is there it gets the new timeout."""
    address = nested(_IP, attribute((1 if len(entry.address) == 4 else 2) | _BIG_ENDIAN, entry.address))
    timeout = attribute(_TIMEOUT | _BIG_ENDIAN, entry.timeout.to_bytes(4)) if entry.timeout else b""
    body = _generic(0) + _PROTOCOL + text(_IPSET_NAME, target.name) + nested(_IPSET_DATA, address, timeout)
    return message(_IPSET << 8 | _IPSET_ADD, ACK if ack else 0, seq, body)


def _generic(family: int, subsystem: int = 0) -> bytes:
    return bytes((family, 0)) + subsystem.to_bytes(2)


def _elements(target: SetTarget, elements: Sequence[bytes]) -> bytes:
    return (
        _generic(_FAMILY[target.family])
        + text(_ELEMENTS_TABLE, target.table)
        + text(_ELEMENTS_SET, target.name)
        + nested(_ELEMENTS, *elements)
    )


def _elements_of(entry: Entry, shape: SetShape) -> list[bytes]:
    timeout = attribute(_ELEMENT_TIMEOUT, (entry.timeout * 1000).to_bytes(8)) if entry.timeout else b""
    elements = [_element(entry.address, timeout)]
    after = int.from_bytes(entry.address) + 1
    if shape.intervals and not after >> 8 * len(entry.address):  # the last address of all needs no end
        elements.append(_element(after.to_bytes(len(entry.address)), attribute(_ELEMENT_FLAGS, _ENDS_INTERVAL)))
    return elements


def _element(key: bytes, more: bytes = b"") -> bytes:
    return nested(_LIST_ITEM, nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key)), more)
