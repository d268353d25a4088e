"""Services for zones: programs that their owner wrote with nothing but Python, and the pages they are deployed by."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BOT", "BOT_PAGE", "COUNTER", "COUNTER_PAGE", "put_down"]

COUNTER = '''#!/usr/bin/env python3
"""Counts in the zone's configuration, so the count is wherever this runs.  POST / counts, GET / tells."""
import http.server, json, os, pathlib, socket, urllib.error, urllib.request

KEY = "data/counter/count"
session = None


def call(service, method, again=True, **params):
    global session
    asked = json.dumps({"method": method, "params": params, "sys": [1, session] if session else [1]}).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:3180/kapi/{service}", asked, timeout=10) as answer:
            return json.load(answer)["result"]
    except urllib.error.HTTPError as refused:
        if not again or json.load(refused)["error"]["code"] not in ("unauthenticated", "expired"):
            raise
    session, token = None, pathlib.Path(os.environ["CYFS_TOKEN_FILE"]).read_text()
    session = call("verify-hub", "login_by_jwt", again=False, jwt=token)["session_token"]
    return call(service, method, again=False, **params)


def read():
    """The count, and the revision that wrote it."""
    found = call("system_config", "read", scopes=[{"at": KEY}])["entries"]
    return (found[0]["value"], found[0]["revision"]) if found else (0, 0)


def count():
    while True:
        number, revision = read()
        try:
            write = {"do": "set", "key": KEY, "value": number + 1}
            call("system_config", "transact", actions=[write], **{"if": [{"key": KEY, "revision": revision}]})
            return number + 1
        except urllib.error.HTTPError as refused:
            if refused.code != 409:
                raise


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(lambda: read()[0])

    def do_POST(self):
        self.say(count)

    def say(self, ask):
        try:
            code, said = 200, f"{ask()}\\n"
        except (OSError, ValueError) as away:
            code, said = 503, f"{away}\\n"
        self.send_response(code)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT_HTTP"])), Answer).serve_forever()
'''
COUNTER_PAGE = """
service: counter
kind: process
image: counter:1
command: [serve]
ports: {http: auto}
health: {port: http, every: 0.5s}
grace: 5s
"""

BOT = '''#!/usr/bin/env python3
"""A listener of few words: POST what you say, and it asks on."""
import http.server, os, re

SWAP = {"i": "you", "my": "your", "me": "you", "am": "are", "you": "I", "your": "my"}
ASKS = [("because (.*)", "is that the only reason?"), ("i (?:feel|am) (.*)", "why are you {}?"),
        ("(.*)", "tell me more about {}.")]


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        heard = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 4096)).decode(errors="replace")
        words = re.sub("[^a-z ]", "", heard.lower())
        found, ask = next((match, ask) for how, ask in ASKS if (match := re.fullmatch(how, words)))
        said = ask.format(" ".join(SWAP.get(word, word) for word in found[1].split())) + "\\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT_HTTP"])), Answer).serve_forever()
'''
BOT_PAGE = """
service: bot
kind: script
image: bot:1
ports: {http: auto}
health: {port: http, every: 0.5s}
replicas: 2
grace: 5s
"""


def put_down(node: Path, image: str, program: str, text: str) -> None:
    """A package of one program, below the home of a node."""
    folder = node / "packages" / image / "1"
    folder.mkdir(parents=True)
    (folder / program).write_text(text)
    (folder / program).chmod(0o755)
