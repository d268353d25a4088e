"""A rule as written, understood: small frozen nodes that print themselves in Clash's own words.

A node knows what was asked, not how to find it quickly (``index``).  ``type`` and ``payload`` are what the control API
shows (mihomo's names); ``str(rule)`` is a line that parses back to an equal rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cyfs_ns.address import Prefix, spell

MAX_SUB_RULES = 32
"""How deep rule lists may lead into each other."""

TYPE_NAMES = {
    "DOMAIN": "Domain",
    "DOMAIN-SUFFIX": "DomainSuffix",
    "DOMAIN-KEYWORD": "DomainKeyword",
    "DOMAIN-WILDCARD": "DomainWildcard",
    "DOMAIN-REGEX": "DomainRegex",
    "GEOSITE": "GeoSite",
    "GEOIP": "GeoIP",
    "SRC-GEOIP": "SrcGeoIP",
    "IP-ASN": "IPASN",
    "SRC-IP-ASN": "SrcIPASN",
    "IP-CIDR": "IPCIDR",
    "SRC-IP-CIDR": "SrcIPCIDR",
    "IP-SUFFIX": "IPSuffix",
    "SRC-IP-SUFFIX": "SrcIPSuffix",
    "SRC-PORT": "SrcPort",
    "DST-PORT": "DstPort",
    "IN-PORT": "InPort",
    "IN-TYPE": "InType",
    "IN-USER": "InUser",
    "IN-NAME": "InName",
    "REMATCH-NAME": "RematchName",
    "PROCESS-NAME": "ProcessName",
    "PROCESS-NAME-REGEX": "ProcessNameRegex",
    "PROCESS-NAME-WILDCARD": "ProcessNameWildcard",
    "PROCESS-PATH": "ProcessPath",
    "PROCESS-PATH-REGEX": "ProcessPathRegex",
    "PROCESS-PATH-WILDCARD": "ProcessPathWildcard",
    "UID": "Uid",
    "NETWORK": "Network",
    "DSCP": "DSCP",
    "DID": "DID",
    "DID-SUFFIX": "DIDSuffix",
    "OWNER": "Owner",
    "ZONE": "Zone",
    "TRUST": "Trust",
    "RULE-SET": "RuleSet",
    "AND": "AND",
    "OR": "OR",
    "NOT": "NOT",
    "SUB-RULE": "SubRules",
    "MATCH": "Match",
}
"""Clash's word in a rule line, and the name the control API gives the same type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; ``outbound`` is empty for a bare condition inside a logic rule or a rule set."""

    word: str
    """Clash's upper-case type word; a rule on the source has its ``SRC-`` form."""
    outbound: str = ""
    """Name of the outbound or group; for SUB-RULE the name of the rule list to go on with."""
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """Option words that mean nothing on this rule; mihomo passes over them, a configuration check may warn."""

    @property
    def type(self) -> str:
        """The type's name in GET /rules."""
        return TYPE_NAMES[self.word]

    @property
    def payload(self) -> str:
        """The payload as GET /rules shows it."""
        return ""

    @property
    def options(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        return ",".join(part for part in (self.word, self._written(), self.outbound, *self.options) if part)

    def _written(self) -> str:
        """The payload as a rule line spells it."""
        return self.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Rule):
    """DOMAIN*, GEOSITE, PROCESS-*, and those on identities: one text to compare in the way the word says."""

    text: str

    @property
    def payload(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Rule):
    """IN-TYPE, IN-USER, IN-NAME, REMATCH-NAME, NETWORK: equal to one of these."""

    words: tuple[str, ...]

    @property
    def payload(self) -> str:
        return "/".join(self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers(Rule):
    """SRC-PORT, DST-PORT, IN-PORT, UID, DSCP: within one of these inclusive ranges."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def payload(self) -> str:
        return "/".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnAddress(Rule):
    """What all rules on an address share: which address, and whether they may ask for a resolution."""

    no_resolve: bool = False

    @property
    def src(self) -> bool:
        return self.word.startswith("SRC-")

    @property
    def asks(self) -> bool:
        """True when the rule wants the destination's address badly enough to have its name resolved."""
        return not (self.no_resolve or self.src)

    @property
    def options(self) -> tuple[str, ...]:
        return ("no-resolve",) if self.no_resolve else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cidr(OnAddress):
    """IP-CIDR compares leading bits, IP-SUFFIX trailing ones."""

    prefix: Prefix

    @property
    def payload(self) -> str:
        return f"{spell(self.prefix.family, self.prefix.number)}/{self.prefix.bits}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(OnAddress):
    """GEOIP (``code`` is a lower-case country code or ``lan``) and IP-ASN (``code`` is a number)."""

    code: str

    @property
    def payload(self) -> str:
        return self.code


@dataclass(frozen=True, slots=True, kw_only=True)
class InSet(Rule):
    """RULE-SET; with ``swap`` (option ``src``) source and destination change places before the set looks."""

    name: str
    swap: bool = False
    no_resolve: bool = False

    @property
    def payload(self) -> str:
        return self.name

    @property
    def options(self) -> tuple[str, ...]:
        return ("src",) if self.swap else ("no-resolve",) if self.no_resolve else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Logic(Rule):
    """AND, OR, NOT over bare conditions, looked at from left to right."""

    parts: tuple[Rule, ...]

    @property
    def payload(self) -> str:
        shown = [f"({part.type},{part.payload})" for part in self.parts]
        return f"(!{shown[0]})" if self.word == "NOT" else f"({(' && ' if self.word == 'AND' else ' || ').join(shown)})"

    def _written(self) -> str:
        return "(" + ",".join(f"({part})" for part in self.parts) + ")"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubRule(Rule):
    """SUB-RULE: when ``condition`` holds, the rule list named ``outbound`` decides, or else nothing does."""

    condition: Rule

    @property
    def payload(self) -> str:
        return f"({self.condition})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Always(Rule):
    """MATCH."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say about a flow."""

    index: int
    """Index of the rule that matched; -1 when none did."""
    type: str
    """Its type as GET /rules and GET /connections name it; empty when none matched."""
    payload: str
    outbound: str
    """Name of the outbound to take."""
    why: str
    """The reason, for people."""


@dataclass(frozen=True, slots=True)
class Need:
    """The rule at ``at`` cannot be judged yet; find out ``what`` and match again from there."""

    what: str
    """``"address"``: resolve the flow's host; ``"process"``: find the process behind its source port."""
    at: int


NO_MATCH = Verdict(-1, "", "", "DIRECT", "no rule matched")
"""Clash sends what no rule wants straight out."""
