"""A console script from its first moment to its last: its three descriptors, and what becomes of what it prints.

A descriptor that was closed when the program began would be given to the first file or socket that is opened, and the
program would read or print there.  So ``/dev/null`` takes the place of one, opened such that reading from an input, or
printing, that was never there fails as it should.

A result that cannot be printed is a failure: one sentence and exit code 1, whatever command it is and however far it
got.  A reader who has enough (``| head``) is told nothing, and the code is 1, too, if the command has no other.
Standard error has nobody to complain to, so what it does not take is lost.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import IO, Any, Final, NoReturn, TextIO

import click

_MODES: Final = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)


class Program(click.Group):
    """The commands of a console script, which is what calling it runs."""

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        _fill_gaps()
        sys.stdout, sys.stderr = _checked(1, sys.stdout), _checked(2, sys.stderr)
        code: Any = 0
        try:
            try:
                self.main(*args, **options)
            except SystemExit as ended:
                code = ended.code
            sys.stdout.flush()
        except Unprinted as fault:
            fault.show()
            code = code or fault.exit_code
        sys.exit(code)


class Unprinted(click.ClickException):
    """Standard output does not take what is printed, and from now on loses it."""

    def __init__(self, fault: OSError) -> None:
        super().__init__(f"standard output: {fault.strerror}")
        self._heard_enough = fault.errno == errno.EPIPE

    def show(self, file: IO[Any] | None = None) -> None:
        if not self._heard_enough:
            super().show(file)


class _Printed(io.FileIO):
    """Standard output or error.  Raises ``Unprinted`` once, for output."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as fault:
            if self.fileno() != 1:
                return len(data)  # the disk may have room again for what comes next
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.close(null)
            raise Unprinted(fault) from fault


def _fill_gaps() -> None:
    for fd, mode in enumerate(_MODES):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, mode)  # the lowest that is free: this one
            os.set_inheritable(null, True)
            assert null == fd


def _checked(fd: int, usual: TextIO | None) -> io.TextIOWrapper:
    """``usual``, over what complains as this module says."""
    encoding, lines = (usual.encoding, usual.isatty()) if usual is not None else ("utf-8", False)
    raw = io.BufferedWriter(_Printed(fd, "wb", closefd=False))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=lines or fd == 2)
