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
from measures import Plan
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
    """The one measure."""
    program = next((program for rival, program in plan.contestants if rival.name == "ours"), None)
    if program is None:
        raise Failed("ours is absent")
    back = Figure("sn-reconnect", "all back", "s", cost_unit="µs each")
    peak, each = Figure("sn-reconnect", "peak", "MB"), Figure("sn-reconnect", "each tunnel", "KiB")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, lab_.Lab(Path(directory)) as lab:
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
        command = [program, "run", "-c", file, "--home", str(home)]
        sn = lab.start(lab.far, "sn", command, lab_.TUNNELS).pid
        time.sleep(1)
        before = stage.pss_kib(sn)
        spent = stage.cpu_seconds(sn)
        with crowd(lab, key.raw, "back", COUNT) as members:
            made = told_by(lab, members)
            spent = stage.cpu_seconds(sn) - spent
            count, seconds = int(made["count"]), made["seconds"]
            back.note = f"{count:,} of {COUNT:,} members; {made['errors']:.0f} attempts more; {made['last_error']}"
            back.rounds.append(seconds)
            back.cost.append(spent / max(1, count) * 1e6)
            back.busy.append(spent / seconds)
            peak.rounds.append(stage.peak_mb(sn))
            time.sleep(3)
            each.rounds.append((stage.pss_kib(sn) - before) / max(1, count))
            each.note = f"from {before / 1024:.0f} MiB"
            assert members.stdin is not None
            members.stdin.close()
            alive = int(told_by(lab, members)["alive"])
        if alive != COUNT:
            back.failed = f"only {alive:,} of {COUNT:,} tunnels stand: {made['last_error']}"
            back.rounds.clear()
    return [back, peak, each]
