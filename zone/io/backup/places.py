"""What the place of a target says about how it is reached."""

from __future__ import annotations

from pathlib import Path

from cyfs_ns.errors import ConfigFault
from cyfs_ns.io.dial import Dial
from zone.io.backup.s3 import SCHEMES, Bucket
from zone.io.backup.target import Directory, Target
from zone.io.backup.webdav import WebDav


def open_target(to: str, access: str, dial: Dial) -> Target:
    """The target at ``to``.  ``access``: what it wants to hear of who comes.  Raises ``ConfigFault``."""
    if to.startswith("/"):
        return Directory(Path(to))
    if to.startswith(("http://", "https://")):
        return WebDav(to, dial, access)
    if to.startswith(SCHEMES):
        return Bucket(to, dial, access)
    raise ConfigFault(
        f"{to[:80]}: a target is a directory from / on, a WebDAV folder (http://…, https://…) or a bucket (s3+https://…)"
    )
