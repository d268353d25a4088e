"""All members of an SN come back to it at the same moment: it was restarted, and knows nobody's address any more.

The SN is the installed program with its module, in a network namespace of its own; each of 10,000 registered devices
has an account, a key and an address.  They are ``tunnelcrowd.py``: their cryptography and their patience are those of
real devices, the rest is one epoll.  They have one CPU together and the SN has the other, so half of the work of all
handshakes is theirs.

* *all back*: seconds from the first connection until the last tunnel stands;
* *peak*: the most memory that was resident in the SN until then;
* *each tunnel*: what an idle one takes, by the growth of memory (PSS) from before the first came.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import stage
import tunnelrivals as lab_
from measures import Plan, strangers_from_now
from report import Figure
from stage import Failed
from tunnelcrowd import member
from tunnelrace import crowd, told_by

from cyfs_gateway.io.sn.store import Database
from cyfs_gateway.sn.accounts import Account, AnyChange, Change, Device
from cyfs_gateway.sn.quota import Quota
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.revision import Revision
from cyfs_ns.io.trusted.keystore import KeyStore

MEASURES = ("sn-reconnect",)
COUNT = 10_000
_FOREVER = 1 << 40


def write_members(home: Path, count: int) -> None:
    """The books of an SN: an account for each of the members, with one machine and no bounds."""
    folder = home / "sn"
    folder.mkdir(parents=True)
    now, mark = int(time.time()), Revision(0, "")
    changes: list[AnyChange] = []
    for number in range(1, count + 1):
        key = member(number).public
        did = dev_did(key)
        changes.append(Change(None, Account(owner=did, key=key, since=now, quota=Quota())))
        device = Device(did=did, owner=did, name="box", since=now, mark=mark, expires=_FOREVER)
        changes.append(Change(None, device))
    books = Database(folder / "books.db")
    books.write(changes)
    books.close()


def reconnect(plan: Plan) -> list[Figure]:
    """The one measure; it takes long, so there is one round, and one more where that was disturbed."""
    program = next((program for rival, program in plan.contestants if rival.name == "ours"), None)
    if program is None:
        raise Failed("ours is absent")
    back = Figure("sn-reconnect", "all back", "s", cost_unit="µs each", planned=1)
    peak, each = (
        Figure("sn-reconnect", "peak", "MB", planned=1),
        Figure("sn-reconnect", "each tunnel", "KiB", planned=1),
    )
    for turn in plan.allowance.turns(1, lambda: [back]):
        if turn:
            with tempfile.TemporaryDirectory(prefix="bench-") as directory, lab_.Lab(Path(directory)) as lab:
                _come_back(lab, program, back, peak, each)
    return [back, peak, each]


def _come_back(lab: lab_.Lab, program: str, back: Figure, peak: Figure, each: Figure) -> None:
    """One round of each."""
    home = lab.home / "sn.state"
    key = KeyStore(home).make_device("sn").public
    write_members(home, COUNT)
    config = {
        "log-level": "error",
        "dns": {"enable": True, "listen": f"{lab_.FAR}:5353", "nameserver": ["rcode://refused"]},
        "rtcp": {"listen": f"{lab_.FAR}:{lab_.TUNNELS}", "versions": [5], "udp": False},
        "sn": {"domain": "sn.example", "addresses": ["198.51.100.1"], "listen": f"{lab_.FAR}:3478"},
    }
    file = lab.file("sn.yaml", json.dumps(config, indent=1))
    sn = lab.start(lab.far, "sn", [program, "run", "-c", file, "--home", str(home)], lab_.TUNNELS).pid
    time.sleep(1)
    before = stage.pss_kib(sn)
    spent = stage.cpu_seconds(sn)
    with crowd(lab, key.raw, "back", COUNT) as members:
        strangers = strangers_from_now([sn, members.pid])
        made = told_by(lab, members)
        others = strangers()
        spent = stage.cpu_seconds(sn) - spent
        top = stage.peak_mb(sn)
        time.sleep(3)
        grown = stage.pss_kib(sn) - before
        assert members.stdin is not None
        members.stdin.close()
        alive = int(told_by(lab, members)["alive"])
    if alive != COUNT:
        back.failed = f"only {alive:,} of {COUNT:,} tunnels stand: {made['last_error']}"
        return
    back.note = (
        f"{made['errors']:.0f} attempts more, {made['last_error']}; the members used {made['cpu']:.0%} of their CPU"
    )
    each.note = f"from {before / 1024:.0f} MiB"
    back.cost.append(spent / COUNT * 1e6)
    back.busy.append(spent / made["seconds"])
    for figure, reached in ((back, made["seconds"]), (peak, top), (each, grown / COUNT)):
        figure.rounds.append(reached)
        figure.strangers.append(others)
