"""A real Ethereum node with a real ENS on it, nodes that misbehave in front of it, and web gateways."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cyfs_ns.ens.abi import Array, decode, encode
from cyfs_ns.ens.namehash import keccak, namehash

HERE = Path(__file__).parent
PLACE = HERE.parents[2] / ".chain"
ANVIL = PLACE / "anvil-linux-amd64" / "bin" / "anvil"
SIGNER = bytes(31) + b"\x05"  # the key of the off-chain resolver's gateway
GATEWAY = "gateway.example"


def missing() -> str:
    """What is not installed, or empty."""
    wanted = (ANVIL, PLACE / "ens", PLACE / "resolver", PLACE / "offchain-resolver-contracts", PLACE / "solc")
    if absent := [str(path.name) for path in wanted if not path.exists()]:
        return f"tools/install-chain installs {', '.join(absent)}"
    return "" if shutil.which("node") else "needs node"


def selector(signature: str) -> bytes:
    return keccak(signature.encode())[:4]


def call_data(signature: str, *values: Any) -> bytes:
    types = re.findall(r"[a-z0-9]+(?:\[\])?", signature[signature.index("(") :])
    return selector(signature) + encode([_type(each) for each in types], values)


def _type(text: str) -> Any:
    if text.endswith("[]"):
        return Array(text[:-2])
    return {"uint64": "uint256", "uint16": "uint256"}.get(text, text)


def posted(port: int, body: bytes, host: str = "127.0.0.1") -> Any:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request("POST", "/", body, {"content-type": "application/json"})
        return json.load(connection.getresponse())
    finally:
        connection.close()


class Anvil:
    """The node, and what a developer does with it."""

    def __init__(self, chain: int = 1, host: str = "127.0.0.1") -> None:
        dying_with_us = ["setpriv", "--pdeathsig", "KILL"]
        command = [str(ANVIL), "--host", host, "--port", "0", "--chain-id", str(chain), "--accounts", "1"]
        self._child = subprocess.Popen(
            dying_with_us + command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._child.stdout is not None
        said = []
        for line in self._child.stdout:
            said.append(line)
            if found := re.search(rf"Listening on {re.escape(host)}:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError("anvil ended: " + "".join(said))
        threading.Thread(target=self._drain, daemon=True).start()
        self.host, self.url = host, f"http://{host}:{self.port}"
        self.account: str = self.rpc("eth_accounts")[0]
        self.labels: set[str] = set()
        self.registry = self.resolver = ""

    def _drain(self) -> None:
        assert self._child.stdout is not None
        for _ in self._child.stdout:
            pass

    def close(self) -> None:
        self._child.kill()
        self._child.wait()

    def rpc(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        reply = posted(self.port, body, self.host)
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def send(self, to: str | None, data: bytes) -> dict[str, Any]:
        transaction = {"from": self.account, "data": "0x" + data.hex(), "gas": hex(8_000_000)}
        done = self.rpc("eth_sendTransaction", transaction | ({"to": to} if to else {}))
        while (receipt := self.rpc("eth_getTransactionReceipt", done)) is None:
            assert self._child.poll() is None, "anvil ended"
            time.sleep(0.002)
        assert receipt["status"] == "0x1", f"{to}: {data[:4].hex()} failed"
        found: dict[str, Any] = receipt
        return found

    def deploy(self, bytecode: str, arguments: bytes = b"") -> str:
        address: str = self.send(None, bytes.fromhex(bytecode.removeprefix("0x")) + arguments)["contractAddress"]
        return address

    def do(self, to: str, signature: str, *values: Any) -> None:
        self.send(to, call_data(signature, *values))

    def own(self, name: str, resolver: str = "") -> None:
        """Registers ``name``, and whatever is above it, to ourselves."""
        labels = name.split(".")
        for at in range(len(labels) - 1, -1, -1):
            current, parent = ".".join(labels[at:]), ".".join(labels[at + 1 :])
            if current not in self.labels:
                label = keccak(labels[at].encode())
                self.do(
                    self.registry,
                    "setSubnodeOwner(bytes32,bytes32,address)",
                    namehash(parent),
                    label,
                    self.account,
                )
                self.labels.add(current)
        if resolver:
            self.do(self.registry, "setResolver(bytes32,address)", namehash(name), resolver)

    def mine(self, blocks: int = 5) -> None:
        """Lookups stand a few blocks below the head."""
        self.rpc("anvil_mine", hex(blocks))


def artifact(path: str) -> str:
    code: str = json.loads((PLACE / path).read_text())["bytecode"]
    return code


def compiled() -> dict[str, str]:
    """The tests' own contracts, compiled once for each text of their source."""
    source = (HERE / "Fixtures.sol").read_bytes() + (HERE / "compile.js").read_bytes()
    kept = PLACE / f"fixtures-{hashlib.sha256(source).hexdigest()[:16]}.json"
    if not kept.exists():
        made = subprocess.run(
            ["node", HERE / "compile.js", PLACE / "solc"],
            input=(HERE / "Fixtures.sol").read_bytes(),
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        part = kept.with_suffix(".part")
        part.write_bytes(made)
        part.rename(kept)
    found: dict[str, str] = json.loads(kept.read_text())
    return found


def serve(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that hang up are part of the tests."""

    server = Server((host, 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


Mend = Callable[[str, list[Any], Any], Any]
"""``mend(method, params, reply)``: the reply to give, a dict, or bytes to send as they are."""


@contextmanager
def proxied(
    target: int, mend: Mend, tls: ssl.SSLContext | None = None, location: str = "", host: str = "127.0.0.1"
) -> Iterator[str]:
    """The URL of a node at ``host`` that passes everything on to port ``target`` and changes the replies, or redirects.

    Every address of 127.0.0.0/8 is a host of its own.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked = json.loads(body)
            mended = mend(asked["method"], asked["params"], posted(target, body))
            out = mended if isinstance(mended, bytes) else json.dumps(mended).encode()
            self.send_response(307 if location else 200)
            self.send_header("location" if location else "content-type", location or "application/json")
            self.send_header("content-length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = serve(Handler, tls, host)
    try:
        yield f"{'https' if tls else 'http'}://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Gateway:
    """A web gateway over TLS that says what the test wants, by path."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    """Path of each request, in order."""
    bodies: list[bytes] = field(default_factory=list)
    answers: dict[str, Callable[[str, bytes], tuple[int, dict[str, str], bytes]]] = field(default_factory=dict)
    """First part of the path -> status, headers, body for the path and body asked."""

    def url(self, path: str, host: str = GATEWAY) -> str:
        return f"https://{host}:{self.port}/{path}"


@contextmanager
def gateway(tls: ssl.SSLContext) -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            state.asked.append(self.path)
            state.bodies.append(body)
            answer = state.answers.get(self.path.split("/")[1])
            status, headers, out = (404, {}, b"") if answer is None else answer(self.path, body)
            self.send_response(status)
            for key, value in ({"content-length": str(len(out))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(out)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = serve(Handler, tls)
    state.port = server.server_address[1]
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def said(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """What a gateway says that has ``data``."""
    return 200, {}, json.dumps({"data": "0x" + data.hex()}).encode()


def signed(answer: Callable[[bytes], bytes], *, key: bytes = SIGNER) -> Callable[[str, bytes], Any]:
    """The gateway of the published off-chain resolver: ``answer`` maps the inner call to its result."""
    from eth_keys.datatypes import PrivateKey

    def serve_signed(path: str, _: bytes) -> Any:
        target, data = path.split("/")[2:4]
        request = bytes.fromhex(data.removesuffix(".json")[2:])
        _name, inner = decode(("bytes", "bytes"), request[4:])
        result = answer(inner)
        expires = int(time.time()) + 300
        digest = keccak(
            b"\x19\x00" + bytes.fromhex(target[2:]) + expires.to_bytes(8, "big") + keccak(request) + keccak(result)
        )
        signature = PrivateKey(key).sign_msg_hash(digest)
        raw = signature.r.to_bytes(32, "big") + signature.s.to_bytes(32, "big") + bytes([27 + signature.v])
        return said(encode(("bytes", "uint256", "bytes"), (result, expires, raw)))

    return serve_signed
