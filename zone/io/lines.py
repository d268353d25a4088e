"""Lines between machines of a zone, on a stream of a tunnel."""

from __future__ import annotations

from cyfs_ns.errors import BadWire
from rtcp.io.pipe import receive_some
from tunnels.endpoint import Endpoint


async def receive_line(pipe: Endpoint, most: int) -> bytes | None:
    """The next line, of ``most`` bytes at most with its end; None when the other has finished.

    The other says no more until it is answered.  Raises ``BadWire``, ``OSError``.
    """
    said = bytearray()
    while not said.endswith(b"\n"):
        if not (part := await receive_some(pipe, most + 1 - len(said))):
            if said:
                raise BadWire("it ended before the line did")
            return None
        said += part
        if len(said) > most or b"\n" in said[:-1]:
            raise BadWire("not one line")
    return bytes(said)
