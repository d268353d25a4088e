"""Trusted names in the name server, from the moment somebody needs them.

Most houses ask for no identity, and what resolves them costs megabytes; so it is made for the first question below
``.eth`` or ``.did``, or when something is pinned on this machine.  What is pinned is read again when its files change,
and ready-made answers are forgotten then: a key that was revoked a moment ago answers nobody.

A server that cannot tell who is pinned does not begin, and does not change: it would tell whatever the DNS says in
somebody's place.  One that runs goes on with those it knew, and refuses to answer for them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cyfs_ns.errors import ConfigFault, Unreachable
from cyfs_ns.given import Given
from cyfs_ns.io.light import in_task
from cyfs_ns.io.watch import Sign, signs_of, unseen, watch_files
from cyfs_ns.query import Query
from cyfs_ns.special import IDENTITY_DOMAINS

if TYPE_CHECKING:
    from cyfs_ns.io.trusted.answers import TrustedAnswers
    from cyfs_ns.trust.dnsview import Shown

_log = logging.getLogger("cyfs.dns")


class TrustGate:
    """``make`` makes what answers, after :meth:`renew` anew; it may raise ``ConfigFault``."""

    def __init__(self, make: Callable[[], TrustedAnswers]) -> None:
        self._make = make
        self._answers: TrustedAnswers | None = None
        self._is_old = False
        self._turn = trio.Lock()
        self._signs: Mapping[Path, Sign] = {}
        """Of the files, from before anybody looked at them."""

    def renew(self) -> None:
        """The configuration has changed."""
        self._is_old = True

    def knows(self, name: str) -> bool:
        """Whether a question about a canonical name may be for us."""
        return name.rpartition(".")[2] in IDENTITY_DOMAINS or (self._answers is not None and self._answers.knows(name))

    async def answer(self, query: Query, beside: Callable[[], Awaitable[Given]]) -> Shown | None:
        """As :meth:`TrustedAnswers.answer`."""
        answers = self._answers
        if answers is None or self._is_old:
            await in_task()
            try:
                answers = await self._open()
            except ConfigFault as fault:
                from cyfs_ns.trust.dnsview import nobodys

                return nobodys(query.question, fault)
        return await answers.answer(query, beside)

    async def addresses(self, host: str) -> Sequence[str] | None:
        """As :meth:`TrustedAnswers.addresses`."""
        try:
            answers = await self._open()
        except ConfigFault as fault:
            raise Unreachable(f"{host}: {fault}", "pre_connect_dns") from None
        return await answers.addresses(host)

    def is_silent(self, name: str) -> bool:
        """As :meth:`TrustedAnswers.is_silent`."""
        return self._answers is not None and self._answers.is_silent(name)

    def flush(self, name: str = "", *, below: bool = False) -> int:
        """As :meth:`TrustedAnswers.flush`."""
        return 0 if self._answers is None else self._answers.flush(name, below=below)

    async def look(self, home: Path) -> None:
        """Know who is pinned below the identity home, if anybody is.  Raises ``ConfigFault`` if that cannot be told."""
        if self._answers is None and not self._signs:
            self._signs = await trio.to_thread.run_sync(signs_of, _followed(home))
        if self._answers is not None or await trio.to_thread.run_sync(_is_any, home):
            answers = await self._open()
            await trio.to_thread.run_sync(answers.look)

    async def live(self, home: Path, changed: Callable[[], None]) -> None:
        """Follow the files below the identity home, and call ``changed`` when others count; until cancelled."""

        async def again(paths: frozenset[Path]) -> None:
            try:
                await self.look(home)
            except ConfigFault as fault:
                _log.error("%s", fault)
            if self._answers is not None and paths != {_kept(home)}:
                self._answers.trusted.flush()
                changed()

        paths = _followed(home)
        await watch_files(paths, again, since={**unseen(paths), **self._signs})

    async def _open(self) -> TrustedAnswers:
        async with self._turn:
            if self._answers is None or self._is_old:
                answers = self._make()
                if self._answers is not None:
                    answers.follow(self._answers)
                try:
                    await trio.to_thread.run_sync(answers.look)
                except ConfigFault:
                    if self._answers is None:
                        raise
                self._is_old, self._answers = False, answers
            return self._answers


def _telling(home: Path) -> tuple[Path, ...]:
    return home / "names" / "pins", home / "names" / "local", home / "identity"


def _kept(home: Path) -> Path:
    return home / "names" / "kept"


def _followed(home: Path) -> tuple[Path, ...]:
    return *_telling(home), _kept(home)


def _is_any(home: Path) -> bool:
    try:
        return any(path.is_symlink() or (path.is_dir() and any(path.iterdir())) for path in _telling(home)) or any(
            path.is_symlink() and not path.exists() for path in (home / "names", home, *home.parents)
        )
    except OSError:
        return True  # and whoever looks says what is in the way
