"""This machine as a device, as its files say it: its key, its document, and whom it remembers."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from cyfs_gateway.config.model import Config
from cyfs_gateway.io.versions import VersionFile
from cyfs_ns.identity.did import dev_did
from cyfs_ns.io.trusted.keystore import KeyStore
from cyfs_ns.trust.places import device_did
from rtcp.party import Local
from rtcp.v5.memory import VersionMemory

_log = logging.getLogger("cyfs.peers")


@dataclass(frozen=True, slots=True)
class Myself:
    """This machine as a device, and whom it remembers."""

    local: Local
    memory: VersionMemory
    file: VersionFile


def read_myself(config: Config) -> Myself:
    """Blocks on the disk.  Raises ``ConfigFault``."""
    file = VersionFile(config.home)
    return Myself(_read_local(config), file.read(), file)


def own_store(config: Config) -> KeyStore:
    """Where this machine, as a device, has its key and its document."""
    store = KeyStore(Path(config.home))
    if config.rtcp is not None and config.rtcp.identity:
        store.path = Path(config.rtcp.identity)
    return store


def _read_local(config: Config) -> Local:
    store = own_store(config)
    key = store.device()
    held = store.device_document()
    port = next((one.port for one in config.listeners if one.kind == "rtcp"), 0)
    local = Local(key=key, did=dev_did(key.public), bridges=config.identity.bridges, listen_port=port)
    if held is None:
        return local
    token, document = held
    if document.key != key.public or document.exp <= time.time():
        _log.warning("%s is for another key or has expired: peers are met without it", store.device_jwt)
        return local
    name = document.id
    if name.key is not None and document.zone is not None:
        name = device_did(document.name, document.zone)
    return Local(key=key, did=name, device_doc_jwt=token.text, bridges=config.identity.bridges, listen_port=port)
