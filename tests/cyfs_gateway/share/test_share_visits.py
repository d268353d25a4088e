"""One request of a visitor, judged from its head: what goes through, what is said instead, and what attackers try."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.share.passes import MOST_SPENT, Grant, write_pass, write_proof
from cyfs_gateway.share.section import Service, read_section
from cyfs_gateway.share.visits import COOKIE, LINK, Answer, Book, Forward, judge
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from tunnels.http1 import parse_request

NOW = 1_800_000_000
KEY = SecretKey(b"k" * 32)
HOST = "photos.me.example"
PHOTOS = Service(name="photos", host=HOST, to="tcp://127.0.0.1:80", auth="link")
GRANT = Grant(id="0123456789abcdef", service="photos", host=HOST, made=NOW, until=NOW + 3600)
BOOK = Book(grants={GRANT.id: GRANT}, key=KEY, public=KEY.public)
TOKEN, JAR = write_pass(GRANT, "share-link", KEY), f"{COOKIE}={write_pass(GRANT, 'share-cookie', KEY)}"


def ask(*lines: str, first: str = "GET /a?b HTTP/1.1", host: str = HOST, cookie: str = JAR, **more: object) -> object:
    fields = [first, *([f"Host: {host}"] if host else []), *([f"Cookie: {cookie}"] if cookie else []), *lines]
    head = parse_request("\r\n".join(fields).encode("latin-1"))
    given = {"service": PHOTOS, "book": BOOK, "now": NOW + 1.0, **more}
    return judge(head, HOST, **given)  # type: ignore[arg-type]


def status(found: object) -> int:
    assert isinstance(found, Answer), found
    return found.status


def head(found: object) -> str:
    assert isinstance(found, Forward), found
    return found.head.decode("latin-1")


def test_a_visit_with_a_cookie_goes_on_without_it() -> None:
    told = head(ask("Accept: text/html", cookie=f"theme=dark; {JAR}; lang=en"))
    assert told == (
        "GET /a?b HTTP/1.1\r\nAccept: text/html\r\nCookie: theme=dark; lang=en\r\nHost: photos.me.example\r\n"
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: photos.me.example\r\nX-Share-Id: 0123456789abcdef\r\n"
        "Connection: close\r\n\r\n"
    )
    assert "Cookie" not in head(ask())


def test_a_link_sets_the_cookie_and_leads_to_the_clean_url() -> None:
    found = ask(first=f"GET {LINK}{TOKEN} HTTP/1.1", cookie="")
    assert isinstance(found, Answer) and found.status == 303
    fields = dict(found.fields)
    assert fields["location"] == "/" and fields["referrer-policy"] == "no-referrer"
    jar, *attributes = fields["set-cookie"].split("; ")
    assert set(attributes) == {"Max-Age=3599", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"}
    assert TOKEN not in str(found)
    assert head(ask(cookie=jar))


# Links for one machine


ANN, EVE = SecretKey(b"a" * 32), SecretKey(b"e" * 32)
FOR_ANN = replace(GRANT, id="fedcba9876543210", whose=str(dev_did(ANN.public)))
ANNS = Book(grants={FOR_ANN.id: FOR_ANN}, key=KEY, public=KEY.public)


def follow(proof: str, grant: Grant = FOR_ANN, **more: object) -> Answer:
    book = Book(grants={grant.id: grant}, key=KEY, public=KEY.public)
    path = LINK + write_pass(grant, "share-link", KEY) + proof
    found = ask(first=f"GET {path} HTTP/1.1", cookie="", **{"book": book, **more})
    assert isinstance(found, Answer)
    return found


def proof(key: SecretKey = ANN, *, id: str = FOR_ANN.id, host: str = HOST, at: float = NOW, nonce: str = "1") -> str:
    return "/" + write_proof(id, host, key, at, nonce)


def test_a_link_for_one_machine_opens_with_its_proof_once() -> None:
    found = follow(proof())
    assert found.status == 303 and found.spent is not None
    digest, until = found.spent
    assert until == NOW + 120
    (jar,) = [value.partition(";")[0] for name, value in found.fields if name == "set-cookie"]
    assert head(ask(cookie=jar, book=ANNS))
    again = follow(proof(), spent={digest})
    assert (again.status, again.text) == (403, "this proof has been used")
    assert follow(proof(nonce="2"), spent={digest}).status == 303


@pytest.mark.parametrize(
    "said",
    [
        "",
        "/",
        "/x.y.z",
        proof(EVE),
        proof(KEY),
        proof(id=GRANT.id),
        proof(host="files.me.example"),
        proof(at=NOW - 121),
        proof(at=NOW + 300),
        proof() + "/",
        "/" + write_pass(FOR_ANN, "share-link", ANN),
    ],
)
def test_nothing_else_proves_that_machine(said: str) -> None:
    found = follow(said)
    assert found.status == 403 and not found.fields and found.spent is None


def test_another_machine_is_told_that_the_link_is_not_for_it() -> None:
    assert follow(proof(EVE)).text == "this proof is not by the machine that the link is for"


def test_a_link_for_everybody_takes_no_proof_and_few_proofs_are_remembered() -> None:
    needless = follow(proof(id=GRANT.id), GRANT)
    assert (needless.status, needless.text) == (403, "this link needs no proof: it opens as it was given")
    assert follow(proof(), spent=set(map(str, range(MOST_SPENT)))).status == 403


def test_an_open_service_asks_for_nothing_and_still_hides_our_cookie() -> None:
    told = head(ask(service=replace(PHOTOS, auth="open")))
    assert "X-Share-Id" not in told and COOKIE not in told


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "other=1",
        f"{COOKIE}=",
        f"{COOKIE}={TOKEN}",
        JAR[:-4] + "AAAA",
        JAR.replace("__Host-", ""),
        JAR.replace("__Host-", "__host-"),
        f"{JAR}; {JAR}",
        f"{COOKIE}=evil; {JAR}",
        f"{JAR};{COOKIE}",
        f"{COOKIE}=" + "x" * 5000,
        f'{COOKIE}="{JAR.partition("=")[2]}"',
    ],
)
def test_cookies_that_are_not_exactly_ours_open_nothing(cookie: str) -> None:
    assert status(ask(cookie=cookie)) == 401


def test_two_cookie_lines_are_tossed_cookies_too() -> None:
    assert status(ask(f"Cookie: {JAR}")) == 401


@pytest.mark.parametrize(
    "more",
    [
        {"now": NOW + 3600.0},
        {"book": replace(BOOK, grants={})},
        {"book": replace(BOOK, public=SecretKey(b"o" * 32).public)},
        {"service": replace(PHOTOS, name="files")},
    ],
)
def test_expired_revoked_and_others_are_out_with_the_next_request(more: dict[str, object]) -> None:
    assert status(ask(**more)) == 401  # type: ignore[arg-type]
    assert status(ask(first=f"GET {LINK}{TOKEN} HTTP/1.1", cookie="", **more)) == 403  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("files.me.example", 421),
        ("photos.me.example.evil.example", 421),
        ("me.example", 421),
        ("127.0.0.1", 400),
        ("[::1]", 400),
        ("photos.me.example:x", 400),
        ("photos.me.example@files", 400),
        ("photos.me.example, files.me.example", 400),
        ("ph%6ftos.me.example", 400),
        ("", 400),
    ],
)
def test_a_host_that_is_not_the_one_of_tls_is_turned_away(host: str, said: int) -> None:
    assert status(ask(host=host)) == said


def test_spellings_of_one_host_are_one_and_two_hosts_are_none() -> None:
    for host in ("Photos.ME.example", "photos.me.example.", "photos.me.example:443"):
        assert "Host: photos.me.example\r\n" in head(ask(host=host))
    assert status(ask(f"Host: {HOST}")) == 400


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 400),
        (["Content-Length: 5", "Content-Length: 6"], 400),
        (["Content-Length: 5", "Content-Length: 5"], 400),
        (["Content-Length: +5"], 400),
        (["Content-Length: 5, 5"], 400),
        (["Transfer-Encoding: chunked, identity"], 400),
        (["Transfer-Encoding: xchunked"], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),
        (["Connection: cookie"], 400),
        (["Connection: close, Content-Length"], 400),
        (["Connection: host"], 400),
    ],
)
def test_framing_in_doubt_goes_nowhere(lines: list[str], said: int) -> None:
    assert status(ask(*lines, first="POST / HTTP/1.1")) == said


@pytest.mark.parametrize(
    "lines",
    [
        "Transfer-Encoding : chunked",
        "X: a\r\n folded",
        "X: a\nHost: b",
        "X: a\rb",
        "X\x00: a",
        ": a",
    ],
)
def test_heads_that_can_be_read_in_two_ways_are_not_read(lines: str) -> None:
    with pytest.raises(BadWire):
        ask(lines)


@pytest.mark.parametrize(
    "first",
    ["GET http://files.me.example/ HTTP/1.1", "CONNECT files:80 HTTP/1.1", "OPTIONS * HTTP/1.1", "TRACE / HTTP/1.1"],
)
def test_this_is_no_proxy(first: str) -> None:
    assert status(ask(first=first)) == 400


def test_who_the_visitor_is_cannot_be_said_by_the_visitor() -> None:
    told = head(
        ask(
            "X-Forwarded-For: 127.0.0.1",
            "Forwarded: for=127.0.0.1",
            "X-Real-IP: 127.0.0.1",
            "x-share-id: ffff",
            "X-Forwarded-Proto: http",
            "Connection: x-secret",
            "X-Secret: 1",
            "Upgrade: h2c",
            "Keep-Alive: 1",
        )
    ).lower()
    assert "127.0.0.1" not in told and "ffff" not in told and "h2c" not in told and "x-secret" not in told
    assert told.count("x-forwarded-proto") == 1


def test_the_service_learns_the_address_that_we_know() -> None:
    told = head(ask("X-Forwarded-For: 192.0.2.1", source="2001:db8::9"))
    assert "X-Forwarded-For: 2001:db8::9\r\n" in told and "192.0.2.1" not in told
    assert "X-Forwarded-For" not in head(ask())


def test_websockets_are_asked_for_in_one_way() -> None:
    found = ask("Connection: keep-alive, Upgrade", "Upgrade: websocket")
    assert isinstance(found, Forward) and found.websocket
    assert head(found).endswith("Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    for lines in (["Upgrade: websocket"], ["Connection: upgrade", "Upgrade: websocket, h2c"]):
        found = ask(*lines)
        assert isinstance(found, Forward) and not found.websocket


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
def test_links_are_followed_and_nothing_else(method: str) -> None:
    assert status(ask(first=f"{method} {LINK}{TOKEN} HTTP/1.1")) == 405


_LINE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=30)


@settings(max_examples=200)
@given(st.lists(_LINE, max_size=4), _LINE)
def test_nothing_a_stranger_says_reaches_the_service(lines: list[str], target: str) -> None:
    try:
        found = ask(*lines, first=f"GET /{target} HTTP/1.1", cookie="")
    except BadWire:
        return
    assert isinstance(found, Answer) and found.status in (400, 401, 403, 421)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ([], "expected a mapping"),
        ({"services": {"list": {"host": "a.example", "to": "tcp://h:1"}}}, "not by a command"),
        ({"services": {"a": {"host": "a.example"}}}, "expected host, to"),
        ({"services": {"a": {"host": "a.example", "to": "tcp://h:1", "auth": "none"}}}, "is link or open"),
        ({"services": {"a": {"host": "1.2.3.4", "to": "tcp://h:1"}}}, "not a host name"),
        ({"services": {k: {"host": "a.example", "to": "tcp://h:1"} for k in "ab"}}, "is there twice"),
        ({"listen": ["443"]}, "no address and port"),
        ({"doors": 1}, "is not known"),
        ({"proxy-protocol": "v2"}, "is true or false"),
    ],
)
def test_a_section_that_makes_no_sense_says_where(section: object, said: str) -> None:
    with pytest.raises(ConfigFault, match=said):
        read_section(section)
