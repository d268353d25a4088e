"""``resolve --trust``: who a name is, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyfs_ns.io.cli.common import print_json, run_to_end
from cyfs_ns.io.cli.identifying import identity_section, writing

if TYPE_CHECKING:
    from cyfs_ns.io.trusted.resolver import TrustedNames
    from cyfs_ns.trust.outcome import Outcome
    from cyfs_ns.trust.plan import Ask
    from cyfs_ns.upstream import Upstream

NOBODY = 9
"""Exit code when nobody who knows could be asked."""


def resolve_trusted(
    words: Sequence[str],
    servers: Sequence[Upstream],
    *,
    least: str,
    home: Path,
    config: Path | None,
    only_plan: bool,
    as_json: bool,
    timeout: float,
) -> int:
    """Ask, print, and return the exit code.  ``servers``: none for the system's.  Raises ``click.UsageError``."""
    from cyfs_ns.errors import BadWire, ConfigFault
    from cyfs_ns.identity.did import subject
    from cyfs_ns.io.resolver import Resolver
    from cyfs_ns.io.trusted.build import addresses_by, build_trusted
    from cyfs_ns.io.trusted.records import by_resolver
    from cyfs_ns.names import is_ip
    from cyfs_ns.trust.evidence import IDENTITY
    from cyfs_ns.trust.level import Trust, read_trust
    from cyfs_ns.trust.plan import Ask

    if len(words) != 1:
        raise click.UsageError("wanted one name: a DID or a host name")
    if is_ip(words[0]):
        raise click.UsageError("an address is nobody's identity; give a DID or a host name")
    identity = identity_section(config)
    try:
        if not only_plan:
            writing(home)  # what is believed is kept there
        whom = subject(words[0], identity.bridges)
        level = read_trust(least) if least else Trust.NONE
        resolver = Resolver(servers, timeout=timeout)
        records = by_resolver(resolver, identity.validators)
        names = build_trusted(
            identity, home, records=records, addresses=addresses_by(lambda: resolver), timeout=timeout
        )
    except (BadWire, ConfigFault) as fault:
        raise click.UsageError(str(fault)) from None
    ask = Ask(subject=whom, kinds=IDENTITY | {"address"}, least=level)
    if only_plan:
        _show_plan(names, ask, as_json=as_json)
        return 0
    outcome = run_to_end(names.resolve, ask)
    if whom.method == "ens" and identity.ens is None:
        click.echo(
            "cyfs-ns: ENS is not asked: -c FILE with identity.ens.rpc, URLs of Ethereum nodes, is needed", err=True
        )
    return _show(outcome, as_json=as_json)


def _show_plan(names: TrustedNames, ask: Ask, *, as_json: bool) -> None:
    from cyfs_ns.trust.printed import plan_lines

    plan = names.plan(ask)
    if as_json:
        steps = [list(step.providers) for step in plan.steps]
        print_json({"subject": str(ask.subject), "steps": steps, "why": list(plan.why)})
        return
    click.echo(f"{ask.subject}: asked until {ask.stop_at} is reached")
    for line in plan_lines(plan):
        click.echo(line)


def _show(outcome: Outcome, *, as_json: bool) -> int:
    import time

    from cyfs_ns.trust.outcome import Found, Unreachable
    from cyfs_ns.trust.printed import outcome_json, outcome_lines

    if as_json:
        print_json(outcome_json(outcome))
    else:
        for line in outcome_lines(outcome, time.time()):
            click.echo(line)
    return 0 if isinstance(outcome, Found) else NOBODY if isinstance(outcome, Unreachable) else 1
