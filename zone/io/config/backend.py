"""What keeps the entries of system_config: the narrow interface that a file and a cluster both have.

A backend knows keys, texts and revisions.  It makes each commit whole or not at all, gives every commit that writes
the next revision, and reads any revision that is not compacted.  All stores sit one exam
(``tests/zone/config/test_config_exam.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from zone.config.keys import Scope
from zone.config.model import Change, Commit, Reading


class Backend(Protocol):
    """A store.  Every method raises ``ConfigError``: ``UNAVAILABLE`` or ``UNCERTAIN`` when its time is up.

    A call that is cancelled may still be carried out.  When a store was away, every lease lives for its time again.
    """

    async def read(self, scopes: Sequence[Scope], revision: int | None = None, *, stale_ok: bool = False) -> Reading:
        """The entries of all ``scopes`` at ``revision``, or now: then with everything acknowledged before.

        With ``stale_ok`` a store that cannot make sure of that gives what it has, and says so.  Raises ``COMPACTED``
        for revisions that are gone, ``INVALID`` for those that are not there yet, ``TOO_LARGE`` if it is too
        much at once.
        """

    async def commit(self, commit: Commit) -> int | None:
        """Make the writes, and return their revision when no crash can undo them; None if a guard does not hold.

        Raises ``MISSING`` if a lease is over; ``FULL`` if there is no room for more, though a store may have made those
        that took the last of it; ``UNCERTAIN`` if nobody can tell whether they were made, or may yet be.  The guards
        keep what is made late from undoing what was written since.
        """

    def watch(self, scope: Scope, after: int) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Every change of ``scope`` after revision ``after``, in order, each once: those that were, then those to come.

        Whoever reads slowly misses nothing; it waits in the store.  While that is away, the watch waits.  The
        iterator raises ``COMPACTED`` if changes that were not told yet are compacted, and ``INVALID`` if ``after`` is
        not there yet: the store was put back to what it was once.
        """

    async def grant(self, ttl: int) -> int:
        """A new lease: it lives for ``ttl`` seconds from now, or a little longer, and again from each sign of life."""

    async def keep_alive(self, lease: int) -> None:
        """Show a sign of life: the lease lives for its time again.  Raises ``MISSING`` if it is over."""

    async def revoke(self, lease: int) -> None:
        """End the lease now, and delete its keys, as one revision.  Raises ``MISSING`` if it is over."""

    async def compact(self, revision: int) -> None:
        """Forget what was before ``revision``, which stays readable.  Raises ``INVALID`` if it is not there yet."""

    async def aclose(self) -> None:
        """Close it, after what is being written.  Calls and watches that are under way or come later raise
        ``UNAVAILABLE``."""
