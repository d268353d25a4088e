"""Ports for servers that are told theirs before they start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from itertools import product

_given: set[int] = set()


def free_port() -> int:
    """A port free for UDP and TCP on loopback, of both families, that this process has not given out before.

    It lies below the ephemeral range: each outgoing question of a name server, somebody else's too, takes a port from
    there, and one of them would now and then take ours before its server starts.
    """
    while True:
        port = random.randrange(10000, 32000)
        with ExitStack() as held, suppress(OSError):
            for host, kind in product(("127.0.0.1", "::1"), (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                held.enter_context(socket.socket(family, kind)).bind((host, port))
            if port not in _given:
                _given.add(port)
                return port
