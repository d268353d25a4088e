"""``cyfs-gateway sn init``: a key for a machine that has none, and a configuration, read once before it is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyfs_gateway.config.load import load
from cyfs_gateway.io.sn.addresses import own_addresses
from cyfs_gateway.sn.firstconfig import delegation, first_config
from cyfs_gateway.sn.settings import SECTION, read_settings
from cyfs_ns import names
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import dev_did, parse_did
from cyfs_ns.io.trusted.keystore import KeyStore


def prepare(home: Path, domain: str, addresses: Sequence[str], owners: Sequence[str], file: Path) -> dict[str, Any]:
    """Write ``file``; what people need to know then.  ``addresses``: none for those that are found.

    Blocks on the disk.  Raises ``BadWire``, ``ConfigFault`` and ``OSError``, and then has written no file.
    """
    domain = names.name(domain)
    found = [names.ip(one) for one in addresses] or own_addresses()
    if not found:
        raise ConfigFault("this machine has no public address; say where it is reached: --address IP")
    text = first_config(domain, found, [parse_did(one).canonical for one in owners], str(file))
    loaded = load(text.encode(), home=str(home), module_sections=[SECTION])
    if loaded.config is None or loaded.faults:
        raise ConfigFault("; ".join(map(str, loaded.faults)))
    read_settings(loaded.config.modules[SECTION])
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    key, is_new = KeyStore(home).ensure_device("sn")
    try:
        written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise ConfigFault(f"{file} is there already; move it away, or write another with --out") from None
    with os.fdopen(written, "w") as out:
        out.write(text)
    did = str(dev_did(key.public))
    return {
        "file": str(file),
        "domain": domain,
        "did": did,
        "new_key": is_new,
        "addresses": found,
        "records": delegation(domain, found),
    }
