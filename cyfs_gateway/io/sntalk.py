"""A conversation with an SN (``cyfs_gateway/sn/talk.py``) on an open stream: one question at a time, and its answer."""

from __future__ import annotations

from functools import partial

import trio

from cyfs_gateway.flow import ANSWERED
from cyfs_gateway.io.answered import Answered
from cyfs_gateway.sn.talk import MOST_LINE, NAME, Ask, Connect, Lines, No, Reply, read_reply, write_ask
from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import Did
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import receive_some, send_all

HOST = f"{NAME}{ANSWERED}"
"""What a stream to an SN is asked for by."""
PATIENCE = 20.0
"""Seconds for one answer: an SN may have to wait for its disk, or for the DNS."""


class Conversation:
    """``pipe`` is taken over.  After anything went wrong it is fit for :meth:`close` alone."""

    def __init__(self, pipe: Endpoint) -> None:
        self._pipe = pipe
        self._lines = Lines()

    async def ask(self, ask: Ask) -> Reply:
        """The answer, which may be ``No``.  Raises ``Unreachable``, and ``BadWire`` for what is none."""
        try:
            with trio.fail_after(PATIENCE):
                await send_all(self._pipe, write_ask(ask))
                while (line := self._lines.next_line()) is None:
                    said = await receive_some(self._pipe)
                    if not said:
                        raise Unreachable("the SN hung up", "tunnel_open")
                    self._lines.receive_data(said)
        except OSError as fault:
            raise Unreachable(f"the SN is gone: {fault}", "tunnel_open") from fault
        except trio.TooSlowError as fault:
            raise Unreachable("the SN does not answer", "connect_timeout") from fault
        return read_reply(line, ask)

    def close(self) -> None:
        """End it."""
        self._pipe.close()


async def connected(pipe: Endpoint, device: Did) -> Endpoint:
    """The way to ``device``, a key, through the SN at the other end of ``pipe``, which is taken over.

    Nothing is waited for: what is sent goes behind the question, and a no is found in reading.  Raises ``Unreachable``.
    """
    ask = Connect(device)
    try:
        await send_all(pipe, write_ask(ask))
    except OSError as fault:
        pipe.close()
        raise Unreachable(f"the SN is gone: {fault}", "tunnel_open") from fault
    except BaseException:
        pipe.close()
        raise
    return Answered(pipe, partial(_check, ask), MOST_LINE)


def _check(ask: Connect, line: bytes) -> None:
    reply = read_reply(line, ask)
    if isinstance(reply, No):
        raise Unreachable(f"the SN does not lead to {ask.device}: {reply.why}", "connect_refused")


def refusal(reply: Reply) -> str:
    """Why the SN said no, for people; empty if it did not."""
    return (reply.why or reply.code) if isinstance(reply, No) else ""
