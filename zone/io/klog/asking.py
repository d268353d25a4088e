"""The lines that all OODs have, as one answer: each is asked for what it keeps, and says up to where.

What is answered leads on, for each OOD by its name: ``before`` to older lines, ``after`` to those that come.  An OOD
that cannot be asked is named in ``away`` with the reason, and asked again with what it was asked for before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json
from zone.io.klog.store import MOST_ANSWERED
from zone.krpc.faults import Code, KrpcFault

_SECONDS: Final = 5.0
"""Of a question, beyond those for which it waits for lines."""
_GATHER: Final = 0.05
"""Seconds in which others may answer too, once one has lines that came."""

Ask = Callable[[Mapping[str, Json]], Awaitable[Json]]
"""``query`` of one OOD.  Raises ``KrpcFault``."""


async def find(oods: Mapping[str, Ask], asked: Mapping[str, Any]) -> dict[str, Any]:
    """``asked`` as ``query`` takes it, but for ``before`` and ``after``, which are objects by OOD.

    Raises ``BadWire``, and ``KrpcFault`` for what no OOD answers.
    """
    before, after, limit, wait = (asked.get(name) for name in ("before", "after", "limit", "wait"))
    if not all(one is None or isinstance(one, dict) for one in (before, after)):
        raise BadWire("'before' and 'after' are objects: what an answer gave")
    if not isinstance(wait, int | float) or not wait >= 0:
        wait = 0.0
    most = limit if isinstance(limit, int) and 0 < limit < MOST_ANSWERED else MOST_ANSWERED
    common = {name: value for name, value in asked.items() if name not in ("before", "after")}
    told: dict[str, Any] = {}
    away: dict[str, KrpcFault] = {}

    async def ask(name: str, question: Mapping[str, Json], enough: trio.CancelScope) -> None:
        try:
            with trio.fail_after(wait + _SECONDS):
                told[name] = await oods[name](question)
        except KrpcFault as fault:
            away[name] = fault
        except trio.TooSlowError:
            away[name] = KrpcFault(Code.UNAVAILABLE, "it does not answer")
        if after is not None and name in after and name in told and told[name]["lines"]:
            enough.deadline = trio.current_time() + _GATHER

    async with trio.open_nursery() as nursery:
        for name in oods:
            if after is not None:
                question = {**common, **({"after": after[name]} if name in after else {"limit": 1})}
            elif before is None:
                question = common
            elif name in before:
                question = {**common, "before": before[name]}
            else:
                continue
            nursery.start_soon(ask, name, question, nursery.cancel_scope)
    if not told and away:
        raise next(iter(away.values()))
    # What an OOD that was away has told by now is no news.
    heard = [name for name in told if after is None or name in after]
    lines = [{**line, "ood": name} for name in heard for line in told[name]["lines"]]
    lines.sort(key=lambda line: line["time"])
    answer: dict[str, Any] = {"away": {name: str(fault) for name, fault in away.items()}}
    if after is not None:
        return answer | {"lines": lines, "after": after | {name: one["after"] for name, one in told.items()}}
    kept = lines[max(0, len(lines) - most) :]
    leads = {name: lead for name, one in told.items() if (lead := _lead(name, one, kept)) is not None}
    leads |= {name: before[name] for name in away if before is not None}
    return answer | {"lines": kept, "before": leads, "after": {name: one["after"] for name, one in told.items()}}


def _lead(name: str, answer: Mapping[str, Any], kept: list[dict[str, Any]]) -> list[Any] | None:
    """To the lines of one OOD that are older than those of it that are ``kept``; None: there are none."""
    lines = answer["lines"]
    mine = [line for line in kept if line["ood"] == name]
    if len(mine) == len(lines):
        lead: list[Any] | None = answer["before"]
        return lead
    if mine:
        return [mine[0]["time"], mine[0]["place"]]
    return [lines[-1]["time"], lines[-1]["place"] + 1]
