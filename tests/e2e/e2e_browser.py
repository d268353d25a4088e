"""A real Chromium without a screen: print a page, or be driven through its debugging pipe.

The pipe carries the Chrome DevTools Protocol as JSON texts that end in NUL: commands in on descriptor 3, replies and
events out on descriptor 4.  Nothing listens on a port, and the browser ends when the pipe does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_house import PATIENCE, program, until

_QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
]

_FIND = """((what, within) => {
    const inside = document.querySelector(within)
    if (!inside) return null
    const fits = what.startsWith('css=') ? [...inside.querySelectorAll(what.slice(4))]
        : [...inside.querySelectorAll('*')].filter(e => e.textContent.trim() === what).reverse()
    for (const element of fits) {
        element.scrollIntoView({block: 'nearest'})
        const box = element.getBoundingClientRect()
        const [x, y] = [box.x + box.width / 2, box.y + box.height / 2]
        const hit = document.elementFromPoint(x, y)
        const open = hit && (element.contains(hit) || hit.contains(element))
        if (open && box.width && !element.closest(':disabled')) return [x, y]
    }
    return null
})"""


def _command(profile: Path, flags: tuple[str, ...]) -> list[str]:
    return [program("chromium", "chromium"), *_QUIET, f"--user-data-dir={profile}", *flags]


def dump_dom(profile: Path, url: str, *flags: str) -> str:
    """The page as it stands after its load event."""
    done = subprocess.run(
        [*_command(profile, flags), "--dump-dom", url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class Page:
    """One tab."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands, self._events = commands, events
        self._buffer = b""
        self._last = 0
        self._session = ""
        self.login: tuple[str, str] | None = None
        """What to answer when a proxy asks for a user."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = self._send(method, params)
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self._next(deadline, method)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self._on_event(message)

    def open(self, url: str) -> str:
        """Go to an address; empty, or what the browser says went wrong."""
        return str(self.call("Page.navigate", url=url).get("errorText", ""))

    def answer_proxies(self, user: str, password: str) -> None:
        """Log in to proxies that ask, as a person would who is shown the box."""
        self.login = user, password
        self.call("Fetch.enable", handleAuthRequests=True)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def text(self) -> str:
        """What a person reads on the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def shows(self, *words: str) -> None:
        """Wait until the page reads like this."""
        until(f"the page shows {words}", lambda: all(word in self.text() for word in words), self.text)

    def becomes(self, script: str, wanted: Any) -> None:
        """Wait until an expression has this value."""
        last: list[Any] = [None]

        def is_so() -> bool:
            last[0] = self.run(script)
            return bool(last[0] == wanted)

        until(f"{script} is {wanted!r}", is_so, lambda: last[0])

    def click(self, what: str, within: str = "body") -> None:
        """Press, with the mouse, the middle of what reads exactly ``what``, or of what a selector ``css=...`` finds.

        Waits until it is there, at rest, in force, and covered by nothing.
        """
        find = f"{_FIND}({json.dumps(what)}, {json.dumps(within)})"
        seen: list[Any] = [None]

        def place() -> Any:
            seen.append(self.run(find))
            return seen[-1] if seen[-1] == seen[-2] else None

        x, y = until(f"{what} can be clicked", place)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._commands, left) :]
        return self._last

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._events], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"the browser does not answer {what}")
            data = os.read(self._events, 1 << 20)
            if not data:
                pytest.fail(f"the browser ended during {what}")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _on_event(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Fetch.requestPaused":
            self._send("Fetch.continueRequest", {"requestId": params["requestId"]})
        elif message.get("method") == "Fetch.authRequired" and self.login is not None:
            user, password = self.login
            answer = {"response": "ProvideCredentials", "username": user, "password": password}
            self._send("Fetch.continueWithAuth", {"requestId": params["requestId"], "authChallengeResponse": answer})


@contextlib.contextmanager
def browser(profile: Path, *flags: str) -> Iterator[Page]:
    """A browser with one empty tab."""
    command = [*_command(profile, flags), "--remote-debugging-pipe"]
    profile.mkdir(parents=True, exist_ok=True)
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()

    def seat() -> None:
        # Moved up first: one of the two may itself be number 3 or 4.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (their_in, their_out)]
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    with (profile / "words.log").open("wb") as words:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=words, stderr=words,
            pass_fds=(3, 4), preexec_fn=seat, start_new_session=True,
        )  # fmt: skip
    os.close(their_in)
    os.close(their_out)
    try:
        yield Page(our_out, our_in)
    finally:
        os.close(our_out)
        os.close(our_in)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
