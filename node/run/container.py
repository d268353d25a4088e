"""Containers: what becomes of an image and a page, as data for who builds one (``node/io/run/sandbox.py``).

A container has its own users, processes, host name, IPC and network; of files it has its image, over which everything
it writes goes to memory and is gone with the run, and its volumes.  It has 65,536 users, none of which is one of the
machine's: its root can do to the container what it likes, and to the machine nothing.

Its network is a loopback interface and no more.  Nothing leads in but the ports of its page, which the daemon joins
connection by connection (``node/io/run/doors.py``), and nothing leads out but what the daemon serves at its loopback
(``node/io/run/exits.py``).  So no address has to be chosen, and no rule
added to a router's firewall; containers do not see each other; and nothing of it is left when everything was killed.

Two programs can build it: bubblewrap, which needs nothing of the host but namespaces, and an OCI runtime (crun).
Limits are the same for both, and are no concern of theirs (``node/run/cgroups.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from cyfs_ns.identity.strictjson import Json
from node.image.oci import ImageConfig
from node.run.environment import environment, expanded
from node.run.runner import MARK, Order, Place, RunFault
from node.run.seccomp import for_runtime
from zone.scheduler.service import Pairs

Runtime = Literal["bwrap", "crun"]

USERS: Final = 65_536
"""Of one container."""
SPEC: Final = 3
"""The descriptor on which the sandbox finds what it is to build."""
ROOT: Final = "/tmp/root"
"""Where it builds the root; nothing of it is seen outside."""
BUNDLE: Final = "/tmp/bundle"
ARGUMENTS_FD: Final = 20
SECCOMP_FD: Final = 21
USERS_FD: Final = 22
"""Descriptors on which bubblewrap finds its arguments, the filter of system calls, and the users."""

CALLS: Final = 3180
PROXY: Final = 3181
NAMES: Final = 53
"""Where a container finds kRPC, the proxy and the name server, at its loopback."""
_CALLED: Final = ("host.docker.internal", "gateway")
"""As what it may call its loopback; the first is what images know."""

TOKENS: Final = "/run/cyfs"
"""Where a container has the folder with its token, which is for its user alone."""

_MILD: Final = frozenset({"PATH", "LANG"})
"""Variables of ours that give way to the image's."""
_FOR_ROOT: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
"""Rights of a container's root, over its own users and files alone."""
_FOR_OTHERS: Final = ("NET_BIND_SERVICE",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One run of a container, as meant."""

    argv: tuple[str, ...]
    env: Pairs = field(default=(), repr=False)
    folder: str = "/"
    user: tuple[int, int] = (0, 0)
    """User and group, as the container numbers them."""
    hostname: str = "container"
    rootfs: str
    """The image's folder on this machine."""
    first_user: int
    """Of the machine: the container's 0."""
    scratch: int
    """Bytes that it may write beside its volumes; they count as its memory."""
    volumes: Pairs = ()
    """Folder on this machine, and where the container has it."""
    ports: tuple[tuple[int, int], ...] = ()
    """Number on this machine, and in the container."""
    run: str = ""
    """What ``MARK`` says."""
    has_exits: bool = False
    """Whether it finds kRPC, the proxy and names at its loopback."""
    tokens: str = ""
    """Folder on this machine that it has at ``TOKENS``, to read; empty: none."""


def plan(
    order: Order,
    place: Place,
    config: ImageConfig,
    rootfs: str,
    first_user: int,
    node: str = "",
    has_token: bool = False,
    passwd: str = "",
    group: str = "",
    has_exits: bool = False,
) -> Container:
    """What is to be built.  ``passwd`` and ``group`` are the image's own files.  Raises ``RunFault``."""
    work = order.work
    ports = _inside(order.ports, config.exposed)
    seen = replace(order, ports=tuple((name, inside) for name, _, inside in ports))
    ours = environment(seen, node, "/", dict(work.volumes), f"{TOKENS}/token" if has_token else "")
    told = dict(ours)
    image = {"HOME": "/"} | (_proxies() if has_exits else {}) | dict(config.env)
    mild = _MILD - dict(work.env).keys()
    env = tuple(
        sorted((told | {name: text for name, text in image.items() if name not in told or name in mild}).items())
    )
    argv = expanded(work.command, env) or config.entrypoint + config.command
    if not argv:
        raise RunFault("the image has no entry point, and the page no command: say what to run", lasting=True)
    return Container(
        argv=argv,
        env=env,
        folder=config.folder,
        user=find_user(config.user, passwd, group),
        hostname=order.service,
        rootfs=rootfs,
        first_user=first_user,
        scratch=work.memory,
        volumes=tuple((place.volume(name), path) for name, path in work.volumes),
        ports=tuple((outside, inside) for _, outside, inside in ports),
        run=place.runs,
        has_exits=has_exits,
        tokens=place.token.rpartition("/")[0] if has_token else "",
    )


def _proxies() -> dict[str, str]:
    """As programs look for a proxy; some know only one of the cases."""
    found = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), f"http://127.0.0.1:{PROXY}")
    found |= {"ALL_PROXY": f"socks5h://127.0.0.1:{PROXY}", "NO_PROXY": ",".join(("localhost", "127.0.0.1", *_CALLED))}
    return found | {name.lower(): value for name, value in found.items()}


def _inside(ports: Sequence[tuple[str, int]], exposed: Sequence[int]) -> list[tuple[str, int, int]]:
    """Each port's name, number here, and number in the container.

    An image that exposes one port, in a service that has one, listens on that whatever it is told.
    """
    if len(ports) == len(exposed) == 1:
        return [(ports[0][0], ports[0][1], exposed[0])]
    return [(name, number, number) for name, number in ports]


def find_user(said: str, passwd: str, group: str) -> tuple[int, int]:
    """The user and group that an image names ``said`` (config.md: ``user``, ``uid``, ``user:group``, ...)."""
    user, _, of = said.partition(":")
    number = primary = 0
    if user.isascii() and user.isdigit():
        number = int(user[:9])
        primary = next((int(line[3]) for line in _records(passwd) if line[2] == str(number)), 0)
    elif user:
        found = next((line for line in _records(passwd) if line[0] == user), None)
        if found is None:
            raise RunFault(f"the image is to run as {user[:40]!r}, whom its /etc/passwd does not know", lasting=True)
        number, primary = int(found[2]), int(found[3])
    if of.isascii() and of.isdigit():
        primary = int(of[:9])
    elif of:
        known = next((line for line in _records(group) if line[0] == of), None)
        if known is None:
            raise RunFault(f"the image is to run in group {of[:40]!r}, which its /etc/group lacks", lasting=True)
        primary = int(known[2])
    if max(number, primary) >= USERS:
        raise RunFault(f"the image is to run as user {number}, group {primary}; there are {USERS}", lasting=True)
    return number, primary


def _records(text: str) -> list[list[str]]:
    """Lines of passwd(5) or group(5) whose numbers are numbers; the last field of a group is not looked at."""
    found = [line.split(":") for line in text.splitlines()]
    return [
        line if len(line) > 4 else [*line[:3], "0"]
        for line in found
        if len(line) >= 4 and _is_number(line[2]) and (len(line) == 4 or _is_number(line[3]))
    ]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def sandbox(container: Container, runtime: Runtime, program: str, filter_: bytes) -> dict[str, Json]:
    """What ``sandbox.py`` reads on ``SPEC``.  ``program`` is the path of ``runtime``; ``filter_`` is for bubblewrap."""
    name = container.hostname
    called = "".join(f" {each}" for each in _CALLED) if container.has_exits else ""
    files = {
        "etc/hosts": f"127.0.0.1 localhost {name}{called}\n::1 localhost {name}\n",
        "etc/hostname": f"{name}\n",
        "etc/resolv.conf": "nameserver 127.0.0.1\n",
    }
    spec: dict[str, Json] = {
        "rootfs": container.rootfs,
        "first": container.first_user,
        "users": USERS,
        "owner": list(container.user),
        "scratch": container.scratch,
        "volumes": [list(pair) for pair in container.volumes],
        "shown": [[container.tokens, TOKENS]] if container.tokens else [],
        "files": [[path, text, 0o644] for path, text in files.items()],
    }
    if runtime == "bwrap":
        spec["argv"] = [program, "--args", str(ARGUMENTS_FD), "--", *container.argv]
        spec["arguments"] = _arguments(container)
        spec["filter"] = filter_.hex()
    else:
        spec["argv"] = [program, "--root", f"{BUNDLE}/state", "--cgroup-manager=disabled", "run", "-b", BUNDLE, name]
        spec["config"] = _runtime_config(container)
    return spec


def _rights(container: Container) -> list[str]:
    return [f"CAP_{name}" for name in (_FOR_ROOT if container.user[0] == 0 else _FOR_OTHERS)]


def _arguments(container: Container) -> list[str]:
    """Of bwrap(1)."""
    words = ["--userns", str(USERS_FD), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", container.hostname]
    words += ["--uid", str(container.user[0]), "--gid", str(container.user[1])]
    words += ["--bind", ROOT, "/", "--proc", "/proc", "--dev", "/dev"]
    words += ["--size", str(container.scratch), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    words += ["--chdir", container.folder]
    words += ["--cap-drop", "ALL"]
    for right in _rights(container):
        words += ["--cap-add", right]
    words.append("--clearenv")
    for name, value in (*container.env, (MARK, container.run)):
        words += ["--setenv", name, value]
    return [*words, "--seccomp", str(SECCOMP_FD)]


def _runtime_config(container: Container) -> dict[str, Json]:
    """``config.json`` (OCI runtime-spec 1.0)."""
    rights = _rights(container)
    ambient = rights if container.user[0] else []
    mapping: Json = [{"containerID": 0, "hostID": container.first_user, "size": USERS}]
    plain = ["nosuid", "noexec", "nodev"]

    def mounted(where: str, kind: str, options: list[str]) -> dict[str, Json]:
        return {"destination": where, "type": kind, "source": kind, "options": options}

    return {
        "ociVersion": "1.0.2",
        "root": {"path": ROOT},
        "hostname": container.hostname,
        "process": {
            "args": list(container.argv),
            "env": [f"{name}={value}" for name, value in (*container.env, (MARK, container.run))],
            "cwd": container.folder,
            "user": {"uid": container.user[0], "gid": container.user[1]},
            "noNewPrivileges": True,
            "capabilities": {
                "bounding": rights,
                "permitted": rights,
                "effective": rights,
                "inheritable": ambient,
                "ambient": ambient,
            },
        },
        "mounts": [
            mounted("/proc", "proc", plain),
            mounted("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mounted("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mounted("/dev/shm", "tmpfs", [*plain, "mode=1777", f"size={container.scratch}"]),
            mounted("/dev/mqueue", "mqueue", plain),
        ],
        "linux": {
            "uidMappings": mapping,
            "gidMappings": mapping,
            "namespaces": [{"type": kind} for kind in ("user", "pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": for_runtime(),  # type: ignore[dict-item]
        },
    }
