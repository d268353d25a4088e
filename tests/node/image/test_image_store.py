"""Images become folders: from every layout, by every packing, and not at all where something is not what it says."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from cyfs_ns.errors import BadWire
from node.image.oci import ImageConfig, read_config, read_index, read_manifest, read_saved
from node.io.image import store as store_module
from node.io.image.store import ImageStore
from tests.node.image.imagery import (
    HERE,
    archived,
    config,
    digest,
    file,
    folder,
    hardlink,
    layer,
    layout,
    pack,
    saved,
    symlink,
)

BASE = layer(
    folder("bin"),
    file("bin/run", b"#!/bin/sh\n", 0o755),
    hardlink("bin/walk", "bin/run"),
    folder("usr/lib"),
    symlink("lib", "/usr/lib"),
    file("old", b"old"),
    folder("cache"),
    file("cache/x"),
)
ABOVE = layer(file("lib/code.py", b"print()\n"), file(".wh.old"), file("cache/.wh..wh..opq"), file("new", b"n", 0o600))
SAID = {"Entrypoint": ["/bin/run"], "Cmd": ["now"], "Env": ["A=b=c", "PATH=/bin"], "ExposedPorts": {"80/tcp": {}}}
WHAT_COMES_OF_IT = {
    "bin": "0o40755",
    "bin/run": "0o100755 #!/bin/sh\n",
    "bin/walk": "0o100755 #!/bin/sh\n",
    "cache": "0o40755",
    "lib": "-> /usr/lib",
    "new": "0o100600 n",
    "usr": "0o40755",
    "usr/lib": "0o40755",
    "usr/lib/code.py": "0o100644 print()\n",
}


def told(rootfs: Path) -> dict[str, str]:
    """What is in a folder."""
    found = {}
    for path in sorted(rootfs.rglob("*")):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            text = f"-> {path.readlink()}"
        else:
            text = oct(status.st_mode) + (f" {path.read_text()}" if path.is_file() else "")
        if status.st_uid != os.geteuid():
            text += f" of {status.st_uid}:{status.st_gid}"
        found[str(path.relative_to(rootfs))] = text
    return found


@pytest.mark.parametrize("form", ["folder", "archive", "saved"])
@pytest.mark.parametrize("packing", ["", "gzip", "zstd"])
def test_every_layout_and_packing_gives_the_same_folder(tmp_path: Path, form: str, packing: str):
    if form == "saved":
        source = saved(tmp_path / "image.tar", [BASE, ABOVE], **SAID)
    else:
        source = layout(tmp_path / "image", [BASE, ABOVE], packing=packing, **SAID)
        if form == "archive":
            source = archived(tmp_path / "image.tar", source)
    image = ImageStore(tmp_path / "images").load(source)
    assert told(image.rootfs) == WHAT_COMES_OF_IT
    assert image.name == digest(config([BASE, ABOVE], **SAID)).replace(":", "-")
    assert (image.config.entrypoint, image.config.command, image.config.exposed) == (("/bin/run",), ("now",), (80,))
    assert dict(image.config.env) == {"A": "b=c", "PATH": "/bin"}
    assert (image.rootfs / "usr/lib/code.py").stat().st_mtime == 1_700_000_000
    assert (image.rootfs / "bin/run").samefile(image.rootfs / "bin/walk")


def test_an_image_is_unpacked_once_and_found_by_its_name(tmp_path: Path):
    images = ImageStore(tmp_path / "images")
    first = images.load(layout(tmp_path / "one", [BASE], **SAID))
    before = (first.rootfs / "bin/run").stat().st_ino
    again = images.load(saved(tmp_path / "two.tar", [BASE], **SAID))
    assert again == first and (again.rootfs / "bin/run").stat().st_ino == before
    assert images.find(first.name) == first
    assert images.find("sha256-" + "0" * 64) is None and images.find("../one") is None


def test_a_layer_that_comes_twice_is_laid_twice(tmp_path: Path):
    gone = layer(file(".wh.old"))
    image = ImageStore(tmp_path / "images").load(saved(tmp_path / "image.tar", [BASE, gone, BASE], **SAID))
    assert (image.rootfs / "old").read_text() == "old"


def test_a_plain_folder_is_a_root_as_it_is(tmp_path: Path):
    image = ImageStore(tmp_path / "images").load(tmp_path)
    assert image.rootfs == tmp_path and image.name == "" and image.config == ImageConfig()


def test_what_nobody_uses_is_removed(tmp_path: Path):
    images = ImageStore(tmp_path / "images")
    one = images.load(layout(tmp_path / "one", [BASE]))
    two = images.load(layout(tmp_path / "two", [ABOVE]))
    (tmp_path / "images" / f".{one.name}.abcd" / "rootfs").mkdir(parents=True)
    images.collect({two.name})
    assert [path.name for path in (tmp_path / "images").iterdir()] == [two.name]
    images.collect(set())
    assert not list((tmp_path / "images").iterdir())


def test_nothing_is_left_of_an_image_that_was_given_up_or_is_bad(tmp_path: Path):
    images = ImageStore(tmp_path / "images")
    source = layout(tmp_path / "one", [BASE, layer(file("../../../escaped", b"x"))])
    with pytest.raises(BadWire, match="leads out of the image"):
        images.load(source)
    with pytest.raises(OSError, match="cancel"):
        images.load(source, is_wanted=lambda: False)
    assert not list((tmp_path / "images").iterdir()) and not (tmp_path / "escaped").exists()


def test_a_layer_with_links_out_writes_nothing_outside(tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    attack = layer(
        symlink("up", "../../../../../../../.."),
        symlink("abs", str(tmp_path)),
        symlink("file", str(tmp_path / "victim")),
        file(f"up{tmp_path}/victim", b"theirs"),
        file("abs/victim", b"theirs"),
        file("file", b"theirs"),
    )
    image = ImageStore(tmp_path / "images").load(layout(tmp_path / "bad", [attack]))
    assert (tmp_path / "victim").read_text() == "mine"
    assert (image.rootfs / str(tmp_path)[1:] / "victim").read_text() == "theirs"


def test_bombs_are_defused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "_MOST_STREAM", 1 << 20)
    monkeypatch.setattr("node.image.layers.MOST_UNPACKED", 1 << 20)
    bomb = layer(file("zeros", bytes(4 << 20)))
    for packing in ("gzip", "zstd"):
        with pytest.raises(BadWire, match="GiB"):
            ImageStore(tmp_path / "images").load(layout(tmp_path / packing, [bomb], packing=packing))
    with pytest.raises(BadWire, match="GiB"):  # nothing but padding after the end
        ImageStore(tmp_path / "images").load(layout(tmp_path / "padding", [layer() + bytes(4 << 20)]))


LIES = {
    "a layer of another digest": {"layers": [{"digest": f"sha256:{'1' * 64}", "size": 1}]},
    "a layer of another hash": {"layers": [{"digest": "md5:abc", "size": 1}]},
    "a layer elsewhere": {"layers": [{"digest": "sha256:../../../../etc/passwd", "size": 1}]},
    "a layer of another type": {"layers": [{"mediaType": "text/plain", "digest": f"sha256:{'1' * 64}", "size": 1}]},
    "layers without number": {"layers": [{}] * 129},
    "layers that are none": {"layers": "all of them"},
    "no layers where there should be one": {"layers": []},
    "another schema": {"schemaVersion": 1},
    "no configuration": {"config": None},
    "a configuration that is not there": {"config": {"digest": f"sha256:{'2' * 64}", "size": 3}},
}


@pytest.mark.parametrize("why", LIES)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, why: str):
    lies = json.loads(json.dumps(LIES[why]))
    for each in lies.get("layers") or []:
        if isinstance(each, dict) and each:
            each.setdefault("mediaType", "application/vnd.oci.image.layer.v1.tar")
    with pytest.raises(BadWire):
        ImageStore(tmp_path / "images").load(layout(tmp_path / "image", [BASE], lies=lies))


def test_bytes_that_are_not_what_their_digest_says_are_refused(tmp_path: Path):
    source = layout(tmp_path / "image", [BASE])
    for blob in sorted((source / "blobs/sha256").iterdir()):
        data = blob.read_bytes()
        for changed in (data + b" ", data[:-1]):
            blob.write_bytes(changed)
            with pytest.raises(BadWire):
                ImageStore(tmp_path / "images").load(source)
        blob.write_bytes(data)
    ImageStore(tmp_path / "images").load(source)
    other = layout(tmp_path / "other", [BASE])
    stranger = pack(layer(file("evil")), "gzip")
    manifest = json.loads((other / "index.json").read_text())["manifests"][0]["digest"]
    document = json.loads((other / f"blobs/sha256/{manifest[7:]}").read_text())
    document["layers"][0] |= {"digest": digest(stranger), "size": len(stranger)}
    (other / f"blobs/sha256/{digest(stranger)[7:]}").write_bytes(stranger)
    changed = json.dumps(document).encode()
    (other / f"blobs/sha256/{digest(changed)[7:]}").write_bytes(changed)
    (other / "index.json").write_text((other / "index.json").read_text().replace(manifest, digest(changed)))
    with pytest.raises(BadWire, match="another than the configuration says"):
        ImageStore(tmp_path / "none").load(other)


def test_the_image_for_this_machine_is_chosen_by_name_and_platform():
    kind = "application/vnd.oci.image.manifest.v1+json"

    def entry(number: int, name: str, architecture: str) -> dict[str, object]:
        return {
            "mediaType": kind,
            "digest": f"sha256:{str(number) * 64}",
            "size": number,
            "annotations": {"org.opencontainers.image.ref.name": name},
            "platform": {"os": "linux", "architecture": architecture},
        }

    index = json.dumps({"manifests": [entry(1, "a", "amd64"), entry(2, "a", "arm64"), entry(3, "b", "arm64")]}).encode()
    assert read_index(index, "a", "arm64").size == 2
    assert read_index(index, "", "amd64").size == 1
    for name, architecture, why in (
        ("", "arm64", "more than one"),
        ("c", "amd64", "no image"),
        ("b", "amd64", "no image"),
    ):
        with pytest.raises(BadWire, match=why):
            read_index(index, name, architecture)


def test_an_image_for_another_machine_or_system_is_refused(tmp_path: Path):
    other = config([BASE]).replace(HERE.encode(), b"s390x")
    with pytest.raises(BadWire, match="s390x"):
        store_module._check_machine(read_config(other))
    with pytest.raises(BadWire, match="windows"):
        read_config(config([BASE]).replace(b'"linux"', b'"windows"'))


def test_damaged_documents_are_read_or_refused():
    dice = random.Random(11)
    samples = [
        (read_config, config([BASE], **SAID, Volumes={"/data": {}}, User="1:2", WorkingDir="/srv")),
        (read_manifest, b'{"schemaVersion":2,"config":{"digest":"sha256:%s","size":1},"layers":[]}' % (b"0" * 64)),
        (lambda data: read_index(data, "", HERE), b'{"manifests":[{"digest":"sha256:%s","size":1}]}' % (b"0" * 64)),
        (lambda data: read_saved(data, ""), b'[{"Config":"c","RepoTags":null,"Layers":["a","b"]}]'),
    ]
    values = [b"null", b"{}", b"[]", b"-1", b'"x"', b"true", b"1e9", b'["\\u0000"]', b'{"a":{}}']
    for read, sample in samples:
        for _ in range(1500):
            data = bytearray(sample)
            start = dice.randrange(len(data))
            data[start : start + dice.randrange(12)] = dice.choice([*values, bytes([dice.randrange(256)])])
            try:
                read(bytes(data))
            except BadWire as bad:
                assert len(str(bad)) < 400


needs_tools = pytest.mark.skipif(
    shutil.which("umoci") is None or shutil.which("skopeo") is None, reason="umoci and skopeo are not installed"
)


@needs_tools
def test_what_the_tools_of_the_field_write_is_unpacked_as_they_do(tmp_path: Path):
    """An image of three layers made by umoci, carried by skopeo in every form; unpacked by umoci and by us."""

    def run(*words: object) -> None:
        subprocess.run([str(word) for word in words], check=True, capture_output=True, cwd=tmp_path)

    first, second = tmp_path / "first", tmp_path / "second"
    (first / "etc/deep").mkdir(parents=True)
    (first / "etc/deep/a").write_text("a")
    (first / "etc/run").write_text("run")
    (first / "etc/run").chmod(0o755)
    (first / "etc/link").symlink_to("/etc/run")
    (second / "etc").mkdir(parents=True)
    (second / "etc/b").write_text("b" * 5000)
    if os.geteuid() == 0:
        os.chown(second / "etc/b", 101, 102)
    os.link(second / "etc/b", second / "etc/c")
    run("umoci", "init", "--layout", "made")
    run("umoci", "new", "--image", "made:1")
    run("umoci", "insert", "--image", "made:1", first / "etc", "/etc")
    run("umoci", "insert", "--image", "made:1", second, "/opt")
    run("umoci", "insert", "--image", "made:1", "--whiteout", "/etc/deep/a")
    run("umoci", "config", "--image", "made:1", "--config.entrypoint", "/etc/run", "--config.env", "A=1")
    run("umoci", "unpack", "--image", "made:1", "bundle")
    run("skopeo", "copy", "--dest-compress-format", "zstd", "oci:made:1", "oci:zstd:1")
    run("skopeo", "copy", "oci:made:1", "oci-archive:oci.tar:1")
    run("skopeo", "copy", "oci:made:1", "docker-archive:docker.tar:test:1")
    wanted = told(tmp_path / "bundle" / "rootfs")
    assert "opt/etc/b" in wanted and "etc/deep/a" not in wanted
    for number, name in enumerate(("made", "zstd", "oci.tar", "docker.tar")):
        image = ImageStore(tmp_path / f"images-{number}").load(tmp_path / name, "1")
        assert told(image.rootfs) == wanted, name
        assert (image.config.entrypoint, dict(image.config.env).get("A")) == (("/etc/run",), "1")
