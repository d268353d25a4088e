"""Standard input and output joined with a stream.

Files, pipes and terminals differ in what they can wait for, and are shared with other programs, which would notice if
they were made non-blocking.  So reading and writing them is done in threads.
"""

from __future__ import annotations

import os

import trio

from cyfs_gateway.io.command.attached import Controller
from cyfs_gateway.remote import Remote
from cyfs_ns.io.client import ApiFault
from tunnels.io.stream import EndpointStream

_BLOCK = 128 * 1024


async def open_remote(controller: Controller, remote: Remote, *, network: str = "tcp") -> EndpointStream:
    """A stream to ``remote``.  Raises as :meth:`Controller.stream`."""
    return EndpointStream(await controller.stream("cyfs", "streams", body=asked(remote, network)))


def asked(remote: Remote, network: str = "tcp") -> dict[str, object]:
    """The request for a stream."""
    return {"peer": remote.peer, "host": remote.host, "port": remote.port, "network": network}


async def pipe_terminal(controller: Controller, remote: Remote) -> None:
    """Until the other side ends, or nobody reads what we print.

    Raises as ``open_remote``, and ``ApiFault`` when the stream breaks, or the input or output does: then it is the
    stream that we break, since what the other side got was not all.
    """
    async with await open_remote(controller, remote) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(_send_input, stream)
        try:
            while data := await stream.receive_some(_BLOCK):
                await trio.to_thread.run_sync(_write, data)
        except trio.BrokenResourceError as fault:
            raise ApiFault(0, f"{remote}: {fault}") from None
        except BrokenPipeError:
            pass
        except OSError as fault:
            raise ApiFault(0, f"standard output: {fault.strerror}") from None
        nursery.cancel_scope.cancel()


async def _send_input(stream: EndpointStream) -> None:
    try:
        while data := await trio.to_thread.run_sync(os.read, 0, _BLOCK, abandon_on_cancel=True):
            await stream.send_all(data)
        await stream.send_eof()
    except trio.BrokenResourceError:
        return  # whoever reads learns why
    except OSError as fault:
        raise ApiFault(0, f"standard input: {fault.strerror}") from None


def _write(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]
