"""How a question that was judged is answered: the block in the way the owner likes, the rewrite as it was written.

A block holds for every type of record.  Whatever way is chosen, an answer without addresses carries an SOA, so that
clients and resolvers behind us remember it for the time we say (RFC 2308), and an extended error telling why
(RFC 8914).
"""

from __future__ import annotations

from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_pton
from typing import Literal, TypeAlias, get_args

from cyfs_ns.judgement import Action, Judgement
from cyfs_ns.listrule import Rewrite
from cyfs_ns.records import data_wire, txt_data
from cyfs_ns.reply import Reply, make_reply
from cyfs_ns.wire import Record, name_wire

Mode: TypeAlias = Literal["nxdomain", "nodata", "zero", "refused", "address"]
MODES: tuple[str, ...] = get_args(Mode)

_A, _CNAME, _SOA, _TXT, _AAAA, _ANY = 1, 5, 6, 16, 28, 255
_NXDOMAIN, _REFUSED = 3, 5
_MAX_WHY = 120  # characters of the explanation sent along


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAnswer:
    """``address`` answers with ``addresses`` (canonical text) and is empty for other types; ``ttl`` in seconds."""

    mode: Mode = "zero"
    addresses: tuple[str, ...] = ()
    ttl: int = 60
    explain: bool = True
    """Whether the extended error names list and rule."""


@dataclass(frozen=True, slots=True)
class Alias:
    """Answer with the records of ``target``, a canonical name, behind a CNAME."""

    target: str


def answer_of(judgement: Judgement, question: bytes, how: BlockAnswer) -> Reply | Alias:
    """The answer to a question that was not let pass.  ``question`` is wire name, type and class."""
    if judgement.action is Action.REWRITE:
        return _rewritten(judgement, question, how)
    ede = ((judgement.ede, f"{judgement.list}: {judgement.rule}"[:_MAX_WHY] if how.explain else ""),)
    if judgement.action is Action.REFUSE or how.mode == "refused":
        return make_reply(question, rcode=_REFUSED, ede=ede)
    if how.mode == "nxdomain":
        return make_reply(question, rcode=_NXDOMAIN, authority=[negative_soa(question, how.ttl)], ede=ede)
    addresses = {"zero": ("0.0.0.0", "::"), "address": how.addresses}.get(how.mode, ())
    name, rtype = question[:-4].lower(), int.from_bytes(question[-4:-2], "big")
    answer = [record for record in (_address(name, text, how.ttl) for text in addresses) if record[1] == rtype]
    return make_reply(question, answer=answer, authority=() if answer else [negative_soa(question, how.ttl)], ede=ede)


def negative_soa(question: bytes, ttl: int) -> Record:
    """The SOA of an empty answer that may be kept ``ttl`` seconds; its owner is the asked name."""
    numbers = (1, 3600, 600, 86400, ttl)
    data = _MADE_BY + b"".join(number.to_bytes(4, "big") for number in numbers)
    return question[:-4].lower(), _SOA, ttl, data


_MADE_BY = name_wire("localhost") + name_wire("nobody.invalid")


def _rewritten(judgement: Judgement, question: bytes, how: BlockAnswer) -> Reply | Alias:
    name, rtype = question[:-4].lower(), int.from_bytes(question[-4:-2], "big")
    first = judgement.rewrites[0]
    if first.cname:
        return Alias(first.cname)
    wanted = [made for made in judgement.rewrites if made.rtype and rtype in (made.rtype, _ANY)]
    answer = [(name, made.rtype, how.ttl, _data(made)) for made in wanted]
    if answer:
        return make_reply(question, answer=answer)
    authority = [negative_soa(question, how.ttl)] if first.rcode in (0, _NXDOMAIN) else ()
    return make_reply(question, rcode=first.rcode, authority=authority)


def _data(made: Rewrite) -> bytes:
    return txt_data(made.data.encode()) if made.rtype == _TXT else data_wire(made.rtype, made.data)


def _address(name: bytes, text: str, ttl: int) -> Record:
    if ":" in text:
        return name, _AAAA, ttl, inet_pton(AF_INET6, text)
    return name, _A, ttl, inet_pton(AF_INET, text)
