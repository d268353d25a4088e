"""Tar archives: what Python's and GNU's writers write is read the same, and nothing else gets in."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from node.image.tar import MOST_EXTENDED, Content, End, Entry, TarReader
from tests.node.image.imagery import file, folder, hardlink, layer, symlink

LONG = "a-long-folder/" * 12 + "name"
ENTRIES = (
    folder("etc"),
    file("etc/passwd", b"root:x:0:0\n", 0o600),
    file(LONG, b"x" * 1500, 0o4755),
    symlink("link", "/" + LONG),
    hardlink("other", LONG),
    file("ümlaut", b""),
)


def read(data: bytes, piece: int = 1 << 20) -> list[Entry | bytes]:
    """Entries, each followed by its contents where it has any."""
    reader, found = TarReader(), []
    for at in range(0, len(data), piece):
        reader.receive_data(data[at : at + piece])
        while (event := reader.next_event()) is not None:
            if isinstance(event, Content) and found and isinstance(found[-1], bytes):
                found[-1] += event.data
            elif not isinstance(event, End):
                found.append(event.data if isinstance(event, Content) else event)
    reader.finish()
    return found


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("piece", [1, 511, 1 << 20])
def test_what_pythons_writer_writes_is_read_the_same_however_it_comes(form, piece):
    data = layer(*ENTRIES, form=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        wanted = [
            (info.name, info.mode, info.size, info.linkname, archive.extractfile(info).read() if info.isreg() else b"")
            for info in archive
        ]
    found = [each for each in read(data, piece) if isinstance(each, Entry)]
    assert [(e.path.rstrip("/"), e.mode, e.size, e.target, data[e.offset : e.offset + e.size]) for e in found] == wanted
    assert [each for each in read(data, piece) if isinstance(each, bytes)] == [b"root:x:0:0\n", b"x" * 1500]


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "pax"])
def test_every_form_of_gnu_tar_is_read(tmp_path: Path, form: str):
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").write_bytes(b"here")
    (tree / "link").symlink_to("below/file")
    done = subprocess.run(["tar", f"--format={form}", "-cC", tree, "."], capture_output=True, check=True)
    found = {e.path.removeprefix("./").rstrip("/"): e.kind for e in read(done.stdout) if isinstance(e, Entry)}
    assert found == {"": "directory", "below": "directory", "below/file": "file", "link": "symlink"}


def test_a_size_in_base_256_is_read():
    info = tarfile.TarInfo("large")
    info.size = 9 << 30
    head = info.tobuf(tarfile.GNU_FORMAT)
    reader = TarReader()
    reader.receive_data(head)
    assert reader.next_event() == Entry(path="large", kind="file", size=9 << 30, mode=0o644, offset=512)


def sealed(head: bytearray) -> bytes:
    """``head`` with the checksum that it should have."""
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def head_of(**fields: object) -> bytearray:
    info = tarfile.TarInfo("name")
    for name, value in fields.items():
        setattr(info, name, value)
    return bytearray(info.tobuf(tarfile.USTAR_FORMAT))


BAD = {
    "no tar": b"\x7fELF" + bytes(600),
    "a checksum that is wrong": bytes(head_of())[:100] + b"7" + bytes(head_of())[101:],
    "a sparse file": sealed(head_of(type=b"S")),
    "a type nobody knows": sealed(head_of(type=b"Z")),
    "a name longer than a megabyte": sealed(head_of(type=b"L", size=MOST_EXTENDED + 1)),
    "a folder with contents of a fifo": sealed(head_of(type=b"6", size=5)),
    "a size that is no number": sealed(bytearray(head_of()[:124] + b"12x45670000\0" + head_of()[136:])),
    "a size beyond all files": sealed(bytearray(head_of()[:124] + b"\x80" + b"\x7f" * 11 + head_of()[136:])),
    "pax that lies about its length": sealed(head_of(type=b"x", size=9)) + b"99 a=b\n\0\0".ljust(512, b"\0"),
    "pax without a length": sealed(head_of(type=b"x", size=9)) + b"path=abc\n".ljust(512, b"\0"),
    "pax with a size that is none": sealed(head_of(type=b"x", size=11)) + b"11 size=-5\n".ljust(512, b"\0") + head_of(),
    "a path longer than paths are": layer(file("x/" * 3000)),
    "an end in the middle of a file": layer(file("cut", b"x" * 2000))[:1600],
    "an end in the middle of a head": layer(file("cut", b""))[:100],
}


@pytest.mark.parametrize("why", BAD)
def test_what_is_no_image_is_refused_and_stays_refused(why: str):
    reader = TarReader()
    reader.receive_data(BAD[why])
    with pytest.raises(BadWire):
        while reader.next_event() is not None:
            pass
        reader.finish()
    if not why.startswith("an end"):
        reader.receive_data(layer(*ENTRIES))
        with pytest.raises(BadWire):
            reader.next_event()


@given(st.binary(max_size=2048))
def test_any_bytes_are_read_or_refused(data: bytes):
    with suppress(BadWire):
        read(data, 97)


def test_damaged_archives_are_read_or_refused_in_bounded_memory():
    dice = random.Random(7)
    whole = layer(*ENTRIES)
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data))
            data[at] = dice.randrange(256)
        start = dice.randrange(0, len(data), 512)
        if dice.random() < 0.5 and any(data[start : start + 512]):  # damage that bears a right checksum
            data[start : start + 512] = sealed(data[start : start + 512])
        try:
            found = read(bytes(data), dice.choice([300, 4096]))
        except BadWire:
            continue
        assert sum(len(each) for each in found if isinstance(each, bytes)) <= len(data)
