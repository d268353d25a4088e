"""What the gateway keeps in its home between two lives: one lock, one secret, one identity, choices made by hand."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.home import HomeLock
from cyfs_ns.io.trusted.keystore import KeyStore, host_label

_SECRET_BYTES: Final = 24
_CHOICES_MOST: Final = 1 << 20

_log = logging.getLogger("cyfs.state")


class Home(HomeLock):
    """A locked home directory.  Raises ``ConfigFault`` when it cannot be used or another gateway lives in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "gateway", ("storage", "providers", "rules"))

    def secret(self) -> str:
        """The control API's secret, made on first use; a file of mode 0600."""
        file = self.path / "secret"
        try:
            found = file.read_text("ascii").strip()
            if found:
                return found
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigFault(f"{file}: {fault}; remove it and a new secret is made") from fault
        made = secrets.token_urlsafe(_SECRET_BYTES)
        try:
            write_atomic(file, made.encode() + b"\n")
        except OSError as fault:
            raise ConfigFault(f"{file}: {fault.strerror}") from fault
        return made

    def settle_identity(self) -> None:
        """Make this machine's key if there is none.  Without one the gateway runs on and is nobody."""
        try:
            _, made = KeyStore(self.path).ensure_device(host_label())
        except ConfigFault as fault:
            _log.error("this machine has no identity: %s", fault)
            return
        if made:
            _log.info("this machine has an identity now; see it with: cyfs-gateway id show")

    def identity(self) -> dict[str, Any]:
        """Who this machine is, as ``status`` shows it; ``fault`` where that cannot be read."""
        try:
            return KeyStore(self.path).view(time.time())
        except ConfigFault as fault:
            return {"fault": str(fault)}

    def choices(self) -> dict[str, str]:
        """Group to chosen member, as last saved; empty when there is none or it cannot be read."""
        try:
            raw = (self.path / "selected.json").read_bytes()[:_CHOICES_MOST]
            found = json.loads(raw)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as fault:
            _log.warning("the remembered choices cannot be read and are forgotten: %s", fault)
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def save_choices(self, choices: Mapping[str, str]) -> None:
        """Remember the choices; a full disk costs the memory of them, not the gateway."""
        try:
            write_atomic(self.path / "selected.json", json.dumps(dict(choices), indent=1).encode())
        except OSError as fault:
            _log.warning("the choice is not remembered: %s", fault)
