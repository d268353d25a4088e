"""The shell against a kernel of a few lines, which can be broken at any command."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import pytest
import trio

from cyfs_gateway.io import netfilter
from cyfs_gateway.io.netfilter import Netfilter, cleanup, run_command
from cyfs_gateway.netfilter import Interception, plan
from cyfs_ns.errors import ConfigFault

WANTED = Interception(instance="a1", interfaces=("eth1",), tproxy_port=7893)
PLAN = plan(WANTED)


class Kernel:
    """Keeps tables, rules and routes as ``nft`` and ``ip`` would; ``fault`` may answer in a command's place."""

    def __init__(self) -> None:
        self.state: set[tuple[str, ...]] = {("4", "rule", "priority", "100", "fwmark", "0x1", "lookup", "main")}
        self.asked: list[tuple[str, ...]] = []
        self.fault = lambda argv: None

    async def __call__(self, argv: Sequence[str], stdin: str) -> tuple[int, str, str]:
        await trio.lowlevel.checkpoint()
        argv = tuple(argv)
        self.asked.append(argv)
        if (fault := self.fault(argv)) is not None:
            if isinstance(fault, BaseException):
                raise fault
            return 1, "", fault
        if argv[0] == "nft":
            return self._nft(argv, stdin)
        if "show" in argv:
            return 0, json.dumps([self._rule(r) for r in self.state if r[:2] == (argv[3].strip("-"), "rule")]), ""
        family, kind, verb, *words = argv[1:]
        entry = (family.strip("-"), kind, *words)
        if verb == "del":
            if entry not in self.state:
                return 2, "", "RTNETLINK answers: No such file or directory"
            self.state.remove(entry)
        elif verb == "add" and entry in self.state:
            return 2, "", "RTNETLINK answers: File exists"
        else:
            self.state.add(entry)
        return 0, "", ""

    def _nft(self, argv: tuple[str, ...], stdin: str) -> tuple[int, str, str]:
        if argv[1] == "list":
            return 0, "".join(f"table inet {name}\n" for kind, name in sorted(s for s in self.state if len(s) == 2)), ""
        if argv[1] == "delete":
            self.state.remove(("table", argv[-1]))
        else:
            self.state.add(("table", stdin.split()[3]))
        return 0, "", ""

    @staticmethod
    def _rule(entry: tuple[str, ...]) -> dict[str, str]:
        pairs = dict(zip(entry[2::2], entry[3::2], strict=True))
        return {"fwmark": pairs["fwmark"], "table": pairs["lookup"], "protocol": pairs.get("protocol", "boot")}


@pytest.fixture
def kernel():
    return Kernel()


async def test_apply_twice_and_remove_leave_the_kernel_as_it_was(kernel):
    before = set(kernel.state)
    ours = Netfilter("a1", kernel)
    await ours.apply(PLAN)
    applied = set(kernel.state)
    await ours.apply(PLAN)
    assert kernel.state == applied
    assert ("table", "cyfs_gateway_a1") in applied
    assert await ours.remove() is True
    assert kernel.state == before
    assert await ours.remove() is False


async def test_routing_is_ready_before_packets_are_marked(kernel):
    await Netfilter("a1", kernel).apply(PLAN)
    marking = kernel.asked.index(("nft", "-f", "-"))
    assert [argv for argv in kernel.asked[marking:] if argv[0] == "ip"] == []


async def test_killed_after_any_command_the_next_start_finds_everything(kernel):
    empty = set(kernel.state)
    await Netfilter("a1", kernel).apply(PLAN)
    for last in range(len(kernel.asked)):
        fresh = Kernel()

        def dies(argv, fresh=fresh, last=last):
            return KeyboardInterrupt() if len(fresh.asked) > last else None

        fresh.fault = dies
        with pytest.raises(KeyboardInterrupt):
            await Netfilter("a1", fresh).apply(PLAN)
            await Netfilter("a1", fresh).remove()
        fresh.fault = lambda argv: None
        await Netfilter("a1", fresh).remove()
        assert fresh.state == empty, f"killed after {last} commands"


async def test_refused_at_any_command_the_old_state_stays_and_the_owner_hears_why(kernel):
    commands = [
        ("ip", "-4", "rule", "add"),
        ("ip", "-6", "rule", "add"),
        ("ip", "-4", "route", "replace"),
        ("ip", "-6", "route", "replace"),
        ("nft", "-f"),
    ]
    before = set(kernel.state)
    for command in commands:
        kernel.fault = lambda argv, c=command: "no such thing" if argv[: len(c)] == c else None
        with pytest.raises(ConfigFault, match="no such thing"):
            await Netfilter("a1", kernel).apply(PLAN)
        assert kernel.state == before


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (FileNotFoundError(), "apt install nftables"),
        (PermissionError(), "CAP_NET_ADMIN"),
        ("netlink: Error: cache initialization failed: Operation not permitted", "CAP_NET_ADMIN"),
    ],
)
async def test_a_missing_program_or_right_is_told_with_its_cure(kernel, fault, advice):
    kernel.fault = lambda argv: fault if argv[0] == "nft" else None
    with pytest.raises(ConfigFault, match=advice):
        await Netfilter("a1", kernel).apply(PLAN)


@pytest.mark.parametrize("fault", [FileNotFoundError(), PermissionError(), "Operation not permitted"])
async def test_where_nothing_can_be_seen_nothing_is_removed_and_nobody_is_told(kernel, fault):
    kernel.fault = lambda argv: fault
    assert await Netfilter("a1", kernel).remove() is False


async def test_cleanup_takes_every_home_and_spares_strangers(kernel):
    kernel.state.add(("table", "someone_elses"))
    before = set(kernel.state)
    for instance in ("a1", "b2"):
        wanted = Interception(instance=instance, interfaces=("eth1",), tproxy_port=7893)
        await Netfilter(instance, kernel).apply(plan(wanted))
    assert await cleanup(kernel) == ["a1", "b2"]
    assert kernel.state == before


async def test_cancelling_does_not_stop_half_way(kernel):
    with trio.CancelScope() as scope:
        scope.cancel()
        await Netfilter("a1", kernel).apply(PLAN)
    assert ("table", "cyfs_gateway_a1") in kernel.state
    with trio.CancelScope() as scope:
        scope.cancel()
        await Netfilter("a1", kernel).remove()
    assert ("table", "cyfs_gateway_a1") not in kernel.state


async def test_the_real_runner_gives_code_and_both_outputs():
    assert await run_command(("sh", "-c", "cat; echo bad >&2; exit 3"), "text") == (3, "text", "bad\n")


async def test_a_command_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(netfilter, "_DEADLINE", 0.05)
    with pytest.raises(ConfigFault, match="no answer"):
        await run_command(("sleep", "60"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: asks the kernel for its tables")
async def test_removing_nothing_from_the_real_kernel_is_quiet():
    assert await Netfilter("0nobody0").remove() is False
