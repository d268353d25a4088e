"""The rules every zone begins with: who may read and write what, before its owner says more.

Roles are given to subjects by what proved them: a device by its key, a service by the token of its node, a user by
theirs.  An OOD is a device that carries the zone, so its own services hold the role ``kernel``; any other device writes
what is its own and nothing else.  What others must not read, such as keys, has a rule that denies it.
"""

from __future__ import annotations

from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_json
from zone.config.access import Rule, read_rule
from zone.config.faults import Code, ConfigError

POLICY: Final = "system/rbac/policy"
"""The key of the zone's own rules: an array of lines as ``read_rule`` takes them, which follow those here."""
MOST_RULES: Final = 1000

_LINES: Final = (
    # The owner of the zone, and the services that make it one: scheduler, node daemon, verify_hub, system_config.
    "allow owner read+write **",
    "allow kernel read+write **",
    # Services that keep the system in order, but hold no keys.
    "allow system read+write **",
    "deny system read+write security/**",
    "deny system read+write users/*/key",
    # Nor say who may do what: otherwise they could make themselves owners.
    "deny system read+write users/*/settings",
    "deny system write system/rbac/**",
    "deny system write boot/**",
    # Nor where all of it is copied to.
    "deny system write system/backup/**",
    # Nor what code runs on a machine, nor which machines belong: that is root on all of them.
    "deny system write services/*/spec",
    "deny system write services/*/placement",
    "deny system write nodes/**",
    "deny system write devices/**",
    "deny system write users/*/apps/*/spec",
    "deny system write users/*/agents/*/spec",
    # Services that serve users.
    "allow frame read boot/**",
    "allow frame read system/**",
    "allow frame read users/**",
    "deny frame read users/*/key",
    "deny frame read users/*/settings",
    # What it is, where it runs and how it is there are not for the service itself to say.
    "allow frame read services/{service}/**",
    "allow frame read+write services/{service}/settings",
    "allow frame read+write data/{service}/**",
    "allow frame read services/*/info",
    # Apps, on behalf of a user who needs the right as well.
    "allow app read boot/**",
    "allow app read services/*/info",
    "allow app read users/{user}/apps/{app}/spec",
    "allow app read+write users/{user}/apps/{app}/settings",
    "allow app read+write users/{user}/apps/{app}/info",
    # People.
    "allow admin read system/**",
    "allow admin read services/**",
    "allow admin read data/**",
    # With a password given just now: what runs in the zone, and where.
    "allow su_admin read+write services/*/spec",
    "allow su_admin read+write nodes/*/intent",
    "allow user read boot/**",
    "allow user read services/*/info",
    "allow user read users/{user}/settings",
    "allow user read+write users/{user}/profile",
    "allow user read+write users/{user}/apps/**",
    "allow user read+write users/{user}/agents/**",
    # They use what others installed for them.
    "allow limited read boot/**",
    "allow limited read services/*/info",
    "allow limited read users/{user}/settings",
    "allow limited read+write users/{user}/profile",
    "allow limited read users/{user}/apps/**",
    "allow limited read+write users/{user}/apps/*/settings",
    "allow limited read+write users/{user}/apps/*/info",
    # They find what is there, and have nothing of their own.
    "allow guest read boot/**",
    "allow guest read services/*/info",
    "allow guest read users/{user}/settings",
    # Machines: they read what they are to do, and say how they are.
    "allow device read boot/**",
    "allow device read nodes/{device}/**",
    "allow device read services/*/info",
    "allow device read+write devices/{device}/**",
    "allow device read+write nodes/{device}/status/**",
    "allow device read+write services/*/instances/{device}",
)

BASE: Final[tuple[Rule, ...]] = tuple(map(read_rule, _LINES))

LOCKED: Final[tuple[Rule, ...]] = tuple(rule for rule in BASE if rule.role in ("owner", "kernel"))
"""The rules while those of the zone cannot be read: what they deny must not be allowed."""


def read_policy(untrusted: str) -> tuple[Rule, ...]:
    """The rules of a zone whose own are in ``untrusted``, the value of ``POLICY``.  Raises ``ConfigError``."""
    try:
        lines = read_json(untrusted, POLICY)
    except BadWire as bad:
        raise ConfigError(Code.INVALID, str(bad)) from None
    if not isinstance(lines, list) or len(lines) > MOST_RULES:
        raise ConfigError(Code.INVALID, f"{POLICY}: an array of {MOST_RULES} rules at most")
    rules = [read_rule(line) if isinstance(line, str) else None for line in lines]
    if None in rules:
        raise ConfigError(Code.INVALID, f"{POLICY}: a rule is a line of text")
    return (*BASE, *(rule for rule in rules if rule is not None))
