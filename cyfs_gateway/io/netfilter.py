"""Carrying out a netfilter plan, and taking every trace of it away again.

All in one nft transaction, so a reload never leaves a gap; ip rules and routes go in before the packets are marked and
go out after.  Whatever we make can be recognised without a memory of having made it: the table by its name, rules and
routes by protocol number, priority, mark and table.  A start therefore calls ``apply`` or ``remove`` whatever happened
before, ``kill -9`` included, and is idempotent.

Commands go through an injectable runner, each with its deadline.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

import trio

from cyfs_gateway.netfilter import (
    ROUTE_PROTOCOL,
    TABLE_PREFIX,
    NetfilterPlan,
    RouteRule,
    route_rules,
    table_name,
)
from cyfs_ns.errors import ConfigFault

__all__ = ["Netfilter", "Runner", "cleanup", "run_command"]

_DEADLINE = 10.0
"""Seconds for one command: they answer in milliseconds, unless the kernel's netlink is stuck."""

_PACKAGE = {"nft": "nftables", "ip": "iproute2"}

Runner = Callable[[Sequence[str], str], Awaitable[tuple[int, str, str]]]
"""Runs argv with the text on standard input; gives exit code, output, errors.  ``FileNotFoundError`` as usual."""


async def run_command(argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
    """The real runner.  ``ConfigFault`` when the deadline passes."""
    try:
        with trio.fail_after(_DEADLINE):
            done = await trio.run_process(
                list(argv), stdin=stdin.encode(), capture_stdout=True, capture_stderr=True, check=False
            )
    except trio.TooSlowError:
        raise ConfigFault(f"iptables: {argv[0]} gave no answer in {_DEADLINE:g} s") from None
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class Netfilter:
    """The interception of one gateway (one ``instance``: see ``cyfs_gateway.netfilter.Interception``)."""

    def __init__(self, instance: str, run: Runner = run_command) -> None:
        self._table = table_name(instance)
        self._routes = route_rules(instance)
        self._run = run

    async def apply(self, plan: NetfilterPlan) -> None:
        """Put the plan in force in place of whatever this instance had.

        Raises ``ConfigFault`` saying what to install or do; the rules in force before then still are.  Once begun it is
        not cancelled, so it never stops half-way.
        """
        with trio.CancelScope(shield=True):
            present = await self._present_routes()
            missing = [route for route in plan.routes if route not in present]
            try:
                for route in missing:
                    await self._must("ip", f"-{route.family}", "rule", "add", *route.rule)
                for route in plan.routes:
                    await self._must("ip", f"-{route.family}", "route", "replace", *route.route)
                await self._must("nft", "-f", "-", stdin=plan.ruleset)
            except ConfigFault:
                for route in await self._present_routes():
                    if route in missing:
                        await self._drop_route(route)
                raise
            for route in present:
                if route not in plan.routes:
                    await self._drop_route(route)

    async def remove(self) -> bool:
        """Take away the table, the ip rules and the routes.  True when there was anything.

        Not cancelled once begun.  Where nft or ip are missing or forbidden nothing of ours can be seen, and that is no
        fault.
        """
        with trio.CancelScope(shield=True):
            table = self._table in await _tables(self._run)
            if table:
                await self._must("nft", "delete", "table", "inet", self._table)
            routes = await self._present_routes()
            for route in routes:
                await self._drop_route(route)
        return table or bool(routes)

    async def _present_routes(self) -> list[RouteRule]:
        present = [await _rules(self._run, route.family) for route in self._routes]
        return [route for route, there in zip(self._routes, present, strict=True) if route in there]

    async def _drop_route(self, route: RouteRule) -> None:
        # The rule goes last: while it stands, a run killed here is still found.  The route may be gone already.
        await self._run(("ip", f"-{route.family}", "route", "del", *route.route), "")
        await self._must("ip", f"-{route.family}", "rule", "del", *route.rule)

    async def _must(self, *argv: str, stdin: str = "") -> None:
        try:
            code, _, err = await self._run(argv, stdin)
        except FileNotFoundError:
            package = _PACKAGE[argv[0]]
            raise ConfigFault(
                f"iptables: the program {argv[0]!r} is missing: install it (apt install {package})"
            ) from None
        except PermissionError:
            raise _forbidden(argv[0]) from None
        if "not permitted" in err:
            raise _forbidden(argv[0])
        if code != 0:
            raise ConfigFault(f"iptables: `{' '.join(argv)}` failed: {_first_lines(err)}")


async def cleanup(run: Runner = run_command) -> list[str]:
    """Remove what gateways of *every* home directory left; returns the instances found.  Not beside a running one."""
    found = [name.removeprefix(TABLE_PREFIX) for name in await _tables(run)]
    return [instance for instance in found if await Netfilter(instance, run).remove()]


async def _tables(run: Runner) -> list[str]:
    out = await _look(run, "nft", "list", "tables", "inet")
    names = [line.split()[-1] for line in out.splitlines() if line.startswith("table inet ")]
    return [name for name in names if name.startswith(TABLE_PREFIX)]


async def _rules(run: Runner, family: int) -> list[RouteRule]:
    out = await _look(run, "ip", "-N", "-j", f"-{family}", "rule", "show")
    try:
        rules = json.loads(out or "[]")
    except ValueError:  # an ip without JSON: busybox
        return []
    return [
        RouteRule(family, int(rule["fwmark"], 16), int(rule["table"]))
        for rule in rules
        if rule.get("protocol") == str(ROUTE_PROTOCOL) and "fwmark" in rule
    ]


async def _look(run: Runner, *argv: str) -> str:
    try:
        code, out, _ = await run(argv, "")
    except (FileNotFoundError, PermissionError):
        return ""
    return out if code == 0 else ""


def _forbidden(program: str) -> ConfigFault:
    return ConfigFault(f"iptables: {program} was not permitted: run as root, or with the capability CAP_NET_ADMIN")


def _first_lines(err: str) -> str:
    return "; ".join(line.strip() for line in err.strip().splitlines()[:3]) or "no reason given"
