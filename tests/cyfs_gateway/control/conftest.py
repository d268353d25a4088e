"""Houses for the control tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trustme
from control_house import SECRET, House, PaperGateway

from cyfs_gateway.config.model import ControlConfig
from cyfs_gateway.io.control import serve_control


@pytest.fixture
def ui(tmp_path: Path) -> Path:
    """A dashboard with one secret beside it."""
    root = tmp_path / "home" / "ui"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text("<!doctype html>dashboard")
    (root / "assets" / "app.js").write_text("app()")
    (root.parent / "identity.key").write_text("PRIVATE")
    return root


@pytest.fixture
async def house(tmp_path: Path, ui: Path, nursery: trio.Nursery) -> House:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    home = tmp_path / "home"
    control = ControlConfig(
        unix=str(tmp_path / "run" / "control.sock"),
        tcp=("127.0.0.1", 0),
        tls=("127.0.0.1", 0),
        certificate=issued.cert_chain_pems[0].bytes().decode(),
        private_key=issued.private_key_pem.bytes().decode(),
        allow_origins=("https://panel.example",),
        external_ui=str(ui),
    )
    gateway = PaperGateway(home, control)
    gateway.nursery = nursery
    scope = trio.CancelScope()

    async def serve(task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        with scope:
            await serve_control(gateway, control, secret=SECRET, task_status=task_status)  # type: ignore[arg-type]

    _, tcp, tls = await nursery.start(serve)
    return House(
        gateway=gateway,
        home=home,
        socket=control.unix,
        port=int(tcp.rpartition(":")[2]),
        tls_port=int(tls.rpartition(":")[2]),
        ca=str(tmp_path / "ca.pem"),
        scope=scope,
    )
