"""A program that orders a certificate and hangs at the worst moment, to be killed there: proven, written down, not
fetched."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from cyfs_gateway.io.certs.acmeclient import AcmeClient
from cyfs_gateway.io.certs.store import OpenOrder
from tests.cyfs_gateway.certs.keeping import keeping
from tests.cyfs_gateway.certs.pebbleca import Dns, Pebble

_fetch = AcmeClient.fetch


async def _fetch_and_hang(self: AcmeClient, order: OpenOrder, csr: bytes) -> bytes:
    if "given" in sys.argv:
        await _fetch(self, order, csr)
    print("here", flush=True)
    return await trio.sleep_forever()


async def main(home: str, directory: str, trust: str, http: str, tls: str, dns: str, *_: str) -> None:
    ca = Pebble(directory=directory, trust=trust, http=int(http), tls=int(tls), management=0, log=Path())
    AcmeClient.fetch = _fetch_and_hang  # type: ignore[method-assign]
    async with keeping(Path(home), ca, {"names": ["killed.home.test"]}, Dns(int(dns))):
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
