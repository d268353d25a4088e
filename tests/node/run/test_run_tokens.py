"""Files of tokens: renewed while a service runs, and gone with it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from node.io.run import tokens
from node.io.run.tokens import drop_token, keep_renewed, put_token
from node.run.runner import Place


async def test_a_token_that_is_being_renewed_as_its_service_ends_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, replace = Place(str(tmp_path), "web"), tokens._replace
    ending = threading.Thread(target=drop_token, args=(place,))

    def slowly(file: Path, token: str, owner: tuple[int, int] | None) -> None:
        ending.start()
        ending.join(0.1)  # as far as it gets
        replace(file, token, owner)
        renewing.cancel()

    async def token(service: str) -> str:
        return "another"

    put_token(place, "first", None)
    monkeypatch.setattr(tokens, "_replace", slowly)
    with trio.CancelScope() as renewing:
        await keep_renewed(str(tmp_path), token)
    await trio.to_thread.run_sync(ending.join)
    assert not await trio.Path(place.token).exists()
