"""What becomes of an image and a page, and the filter of system calls; nothing of it runs."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.image.oci import ImageConfig
from node.io.run import sandbox as builder
from node.run import container
from node.run.container import Container, find_user, plan, sandbox
from node.run.runner import Order, Place, RunFault
from node.run.seccomp import NAMESPACES, program
from zone.scheduler.service import Work

PLACE = Place("/home", "web")
IMAGE = ImageConfig(entrypoint=("/run",), command=("now",), env=(("A", "image"), ("PATH", "/opt")), exposed=(80,))


def planned(config: ImageConfig = IMAGE, ports: tuple[tuple[str, int], ...] = (), **work: object) -> Container:
    order = Order(service="web", work=Work(image="x", **work), ports=ports)  # type: ignore[arg-type]
    return plan(
        order,
        PLACE,
        config,
        "/rootfs",
        1 << 30,
        "ood1",
        True,
        "web:x:7:8::/:/bin/sh\n",
        "web:x:8:\nstaff:x:50:web\n",
    )


def test_a_page_says_more_than_the_image():
    assert planned().argv == ("/run", "now")
    assert planned(command=("/bin/other",)).argv == ("/bin/other",)
    found = dict(planned(env=(("A", "page"), ("LANG", "de"))).env)
    assert (found["A"], found["PATH"], found["LANG"], found["HOME"]) == ("page", "/opt", "de", "/")
    assert dict(planned(env=(("PATH", "/page"),)).env)["PATH"] == "/page"
    with pytest.raises(RunFault, match="no entry point") as fault:
        planned(ImageConfig())
    assert fault.value.lasting


def test_who_has_ways_out_is_told_where_they_are():
    order = Order(service="web", work=Work(image="x", env=(("HTTP_PROXY", "mine"),)))
    found = plan(order, PLACE, IMAGE, "/rootfs", 1 << 30, has_exits=True)
    env = dict(found.env)
    assert (env["HTTP_PROXY"], env["https_proxy"]) == ("mine", "http://127.0.0.1:3181")
    assert "127.0.0.1 localhost web host.docker.internal gateway" in str(sandbox(found, "crun", "/crun", b""))
    closed = planned()
    assert not any("proxy" in name.lower() for name, _ in closed.env)
    assert "host.docker.internal" not in str(sandbox(closed, "crun", "/crun", b""))


def test_ports_are_told_and_met():
    two = planned(ports=(("http", 8001), ("web-admin", 8002)), command=("/x", "0.0.0.0:$PORT_HTTP", "$PORT_WEB_ADMIN"))
    assert two.argv == ("/x", "0.0.0.0:8001", "8002")
    assert two.ports == ((8001, 8001), (8002, 8002))
    one = planned(ports=(("http", 8001),))
    assert one.ports == ((8001, 80),) and dict(one.env)["PORT_HTTP"] == "80"
    assert planned(ImageConfig(entrypoint=("/x",)), ports=(("http", 8001),)).ports == ((8001, 8001),)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", (0, 0)),
        ("web", (7, 8)),
        ("7", (7, 8)),
        ("1000", (1000, 0)),
        ("web:staff", (7, 50)),
        ("web:60", (7, 60)),
        ("0:0", (0, 0)),
    ],
)
def test_whom_an_image_runs_as(said: str, found: tuple[int, int]):
    passwd = "# no line\nbroken:x:y:z:\nroot:x:0:0:r:/:/sh\nweb:x:7:8::/:/bin/sh\n"
    assert find_user(said, passwd, "web:x:8:\nstaff:x:50:web\n") == found


@pytest.mark.parametrize("said", ["nobody", "web:none", "70000", "web:65536", "99999999999", "-1"])
def test_whom_no_image_runs_as(said: str):
    with pytest.raises(RunFault, match="the image is to run") as fault:
        find_user(said, "web:x:7:8::/:/bin/sh\n", "")
    assert fault.value.lasting


@given(st.text(max_size=30), st.text(alphabet="ab:x0123456789\n", max_size=80), st.text(max_size=40))
def test_accounts_of_strangers_are_read_or_refused(said: str, passwd: str, group: str):
    try:
        user, of = find_user(said, passwd, group)
    except RunFault:
        return
    assert 0 <= user < 65536 and 0 <= of < 65536


def test_both_runtimes_are_told_the_same():
    made = planned(IMAGE, ports=(("http", 8001),), volumes=(("data", "/var/lib/web"),), env=(("SECRET", "s"),))
    told = {name: sandbox(made, name, f"/bin/{name}", b"\x01") for name in ("bwrap", "crun")}  # type: ignore[arg-type]
    for spec in told.values():
        assert spec["volumes"] == [["/home/volumes/web/data", "/var/lib/web"]] and spec["rootfs"] == "/rootfs"
        assert "SECRET" not in json.dumps(spec["argv"])
        assert spec["shown"] == [["/home/tokens/web", "/run/cyfs"]]
        assert "CYFS_RUN" in json.dumps(spec)
    assert told["bwrap"]["filter"] == "01" and "filter" not in told["crun"]
    arguments = told["bwrap"]["arguments"]
    assert isinstance(arguments, list)
    for needed in ("--unshare-net", "--unshare-pid", "--die-with-parent", "--clearenv", "--seccomp"):
        assert needed in arguments


def test_who_builds_a_container_finds_what_the_plan_says():
    """It runs as a program that imports nothing of ours, so what both must know stands there twice."""
    assert (builder._SPEC, builder._ARGUMENTS, builder._FILTER, builder._USERS) == (
        container.SPEC,
        container.ARGUMENTS_FD,
        container.SECCOMP_FD,
        container.USERS_FD,
    )
    assert (builder._ROOT, builder._BUNDLE) == (container.ROOT, container.BUNDLE)


X86, ARM = 0xC000_003E, 0xC000_00B7


def verdict(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do: a machine for the five instructions that we use."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(arguments + (0,) * 6)[:6])
    steps = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    at = accumulator = 0
    while True:
        operation, yes, no, operand = steps[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, operand)[0]
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += yes if holds[operation] else no


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def test_the_filter_denies_what_it_says():
    code = program("x86_64")
    assert len(code) < 8 * 4096
    for number, answer in ((0, ALLOW), (59, ALLOW), (165, EPERM), (272, EPERM), (425, EPERM), (435, ENOSYS)):
        assert verdict(code, X86, number) == answer
    assert verdict(code, X86, 0x4000_0000 + 165) == ENOSYS  # x32
    assert verdict(code, 0x4000_0003, 1) == KILL  # i386, whose mount is 21
    assert verdict(code, X86, 56, 0x11) == ALLOW and verdict(code, X86, 56, 0x1000_0011) == EPERM
    for bit in range(32):
        wanted = EPERM if NAMESPACES >> bit & 1 else ALLOW
        assert verdict(code, X86, 56, 1 << bit) == wanted
    assert verdict(code, X86, 16, 0, 0x5401) == ALLOW and verdict(code, X86, 16, 0, 0x5412) == EPERM
    assert verdict(code, X86, 16, 0, 0xFFFF_FFFF_0000_5412) == EPERM  # the kernel looks at the low half as well
    assert verdict(code, X86, 41, 2) == ALLOW and verdict(code, X86, 41, 40) == EPERM  # AF_VSOCK is in no namespace
    arm = program("aarch64")
    assert verdict(arm, ARM, 198, 1) == ALLOW and verdict(arm, ARM, 198, 40) == EPERM
    assert verdict(arm, ARM, 40) == EPERM and verdict(arm, ARM, 220, 0x1000_0000) == EPERM
    assert verdict(arm, ARM, 63) == ALLOW and verdict(arm, X86, 63) == KILL
    with pytest.raises(KeyError):
        program("vax")
