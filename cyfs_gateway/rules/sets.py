"""What a rule-provider holds: names or addresses (``cyfs_ns.sets``), or a list of classical conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cyfs_gateway.rules.model import Rule
from cyfs_ns.sets import CidrSet, HostSet

Behavior: TypeAlias = Literal["domain", "ipcidr", "classical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """What a rule-provider holds; exactly the field that ``behavior`` names is set."""

    behavior: Behavior
    domains: HostSet | None = None
    cidrs: CidrSet | None = None
    rules: tuple[Rule, ...] = ()
    faults: tuple[str, ...] = ()
    """Why lines were left out, the first few of them: one bad line does not cost the list."""

    @property
    def count(self) -> int:
        """Entries, as GET /providers/rules shows them."""
        body = {"domain": self.domains, "ipcidr": self.cidrs, "classical": self.rules}[self.behavior]
        return 0 if body is None else len(body)
