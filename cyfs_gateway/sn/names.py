"""Which names an SN gives out: one label, as DNS carries it, that cannot be taken for another name.

A label is letters, digits and hyphens (RFC 952, RFC 1123 §2.1), or a word of another script in its A-label (RFC 5890),
but then one that ENSIP-15 lets pass: a single script, no marks without letters, nothing that reads as another script's.
Emoji are no names here.  What else fools the eye (``paypa1`` for ``paypal``, ``rn`` for ``m``, a hyphen more or less,
an accent) is caught by comparing *skeletons* (after UTS 39 §4): what remains of a name when all that may be overlooked
is taken away.  Two names with one skeleton have one owner.

Absent on purpose: a list of trade marks.  Who may be called what is the operator's to settle, by reserved words.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from cyfs_ns import names
from cyfs_ns.ens.nfc import decompose
from cyfs_ns.ens.normalise import normalise
from cyfs_ns.ens.tables import NON_SPACING, tables
from cyfs_ns.errors import BadWire

SHORTEST = 3
LONGEST = 40
"""Characters of a label on the wire.  Below 63, so that a service can be put before it: ``photos-alice``."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z").match
_LOOKS = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "-": None})
_PAIRS = (("rn", "m"), ("vv", "w"))

_WORDS = """
    abuse account accounts acme admin administrator alt api app apps auth autoconfig autodiscover backup billing blog
    bns broadcasthost cdn certs cyfs daemon dev device did dns example ens eth ftp gateway git help home host hostmaster
    http https imap info internal invalid invite isatap lan local localdomain localhost login mail mailer-daemon manage
    mta-sts mx news nobody noc noreply none ns ns1 ns2 ns3 ns4 null official ood onion operator owner password pay
    payment pop pop3 portal postmaster public register relay root rtcp sales secure security server service share
    signup smtp sn ssl staff static status stun support sys sysadmin system test tls turn undefined usenet uucp vpn web
    webmail webmaster well-known wpad www www1 www2 zone
"""

RESERVED = frozenset(_WORDS.split())
"""Never given out: what stands for the SN itself, or makes programs and people trust its holder (RFC 2142, WPAD)."""


def label(untrusted: str) -> str:
    """The one spelling of a name somebody wants, an A-label where it is not ASCII.  Raises ``BadWire`` saying why not.

    Whether the name is reserved or taken is asked elsewhere.
    """
    if "." in untrusted:
        raise BadWire(f"{untrusted[:80]!r} is more than one label")
    found = names.name(untrusted)
    if not SHORTEST <= len(found) <= LONGEST:
        raise BadWire(f"{found!r} has {len(found)} characters; a name has {SHORTEST} to {LONGEST}")
    if _LABEL(found) is None:
        raise BadWire(f"{found!r}: a name has letters and digits, and hyphens between them")
    if found[2:4] == "--" and not found.startswith("xn--"):
        raise BadWire(f"{found!r}: two hyphens stand third and fourth only where DNS puts them")
    if found.startswith("xn--"):
        _check_script(found)
    return found


def _check_script(found: str) -> None:
    text = _unicode(found)
    if any(unicodedata.category(char)[0] not in "LMN" and char != "-" for char in text):
        raise BadWire(f"{found!r}: a name has letters, digits and hyphens")
    if normalise(text).name != text or names.name(text) != found:
        raise BadWire(f"{found!r}: not in the form that people would type")


def _unicode(found: str) -> str:
    try:
        text = found[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        raise BadWire(f"{found!r} is no A-label") from None
    if text.isascii():
        raise BadWire(f"{found!r} is no A-label")
    return text


@functools.lru_cache(maxsize=4096)
def skeleton(name: str) -> str:
    """What is left of ``name`` (as :func:`label` gave it) for a glancing eye; equal for names that look alike."""
    text = name
    if name.startswith("xn--"):
        rules = tables()
        text = "".join(
            rules.looks_like.get(char, char)
            for char in decompose(_unicode(name), rules)
            if not rules.kind(char).flags & NON_SPACING
        )
    text = text.translate(_LOOKS)
    for pair, one in _PAIRS:
        text = text.replace(pair, one)
    return text or name


@functools.cache
def reserved_skeletons(words: frozenset[str]) -> frozenset[str]:
    """The skeletons of ``words``: ``adm1n`` is no more to be had than ``admin``."""
    return frozenset(map(skeleton, words))
