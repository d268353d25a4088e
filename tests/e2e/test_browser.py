"""A real browser looks at pages of a real web server through our ports, and our rules decide what it gets.

The names exist only in the gateway's ``hosts``: a page that shows has come through it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from e2e_browser import browser, dump_dom
from e2e_house import Gateway, Nginx, gateway, program, until

from tests.freeport import free_port

PLAIN = "<title>plain</title><p id=told>not yet</p><script>told.textContent = 'served by nginx'</script>"

BUSY = """<title>busy</title><link rel=stylesheet href=style.css><ul id=seen></ul><script>
const add = text => seen.appendChild(document.createElement('li')).textContent = text
function part(kind, url) {{
    const element = document.createElement(kind)
    element.onload = () => add('got ' + new URL(url, location).pathname)
    element.onerror = () => add('lost ' + new URL(url, location).pathname)
    element.src = url
    document.body.append(element)
}}
for (let n = 0; n < 12; n++) part('img', 'dot.svg?' + n)
part('script', 'own.js')
part('script', 'https://secure.test:{tls_port}/lib.js')
part('script', 'http://tracker.ads.test:{port}/track.js')
part('img', 'http://pixel.ads.test:{port}/pixel.svg')
part('script', 'https://late.ads.test:{tls_port}/late.js')
part('img', 'http://unknown.test:{port}/stray.svg')
</script>"""

SOCKET = """<title>socket</title><p id=heard></p><script>
const socket = new WebSocket('ws://' + location.host + '/ws')
socket.onopen = () => socket.send('over the wall')
socket.onmessage = event => heard.textContent = event.data
socket.onerror = () => heard.textContent = 'failed'
</script>"""

DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


@pytest.fixture(scope="module")
def site(nginx: Nginx) -> Nginx:
    pages = {
        "plain.html": PLAIN,
        "busy.html": BUSY.format(port=nginx.port, tls_port=nginx.tls_port),
        "socket.html": SOCKET,
        "style.css": "body { color: navy }",
        "big.js": "//" + "x" * 3_000_000 + "\ntold.textContent = 'all of it'",
        "big.html": "<p id=told>not yet</p><script src=big.js></script>",
        **dict.fromkeys(("own.js", "lib.js", "track.js", "late.js"), "window.loaded = true"),
        **dict.fromkeys(("dot.svg", "pixel.svg", "stray.svg"), DOT),
    }
    for name, text in pages.items():
        (nginx.pages / name).write_text(text)
    return nginx


@pytest.fixture(scope="module")
def ports() -> SimpleNamespace:
    return SimpleNamespace(socks=free_port(), http=free_port(), mixed=free_port(), guarded=free_port())


@pytest.fixture(scope="module")
def house(site: Nginx, ports: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "ipv6": False,
        "hosts": dict.fromkeys(
            ["plain.test", "secure.test", "only-chromium.test", "unknown.test", "*.ads.test"], "127.0.0.1"
        ),
        "listeners": [
            {"name": "socks", "type": "socks", "port": ports.socks},
            {"name": "http", "type": "http", "port": ports.http},
            {"name": "mixed", "type": "mixed", "port": ports.mixed},
            {
                "name": "guarded",
                "type": "http",
                "port": ports.guarded,
                "users": [{"username": "alice", "password": "wonder land"}],
            },
        ],
        "sniffer": {"enable": True, "parse-pure-ip": True, "sniff": {"TLS": {"ports": [site.tls_port]}}},
        "proxy-groups": [{"name": "picked", "type": "select", "proxies": ["DIRECT", "REJECT"]}],
        "rules": [
            "DOMAIN-SUFFIX,ads.test,REJECT",
            "DOMAIN,plain.test,DIRECT",
            "DOMAIN,secure.test,picked",
            "AND,((PROCESS-NAME,chromium),(DOMAIN,only-chromium.test)),DIRECT",
            "MATCH,REJECT",
        ],
    }
    with gateway(tmp_path_factory.mktemp("browser") / "home", config) as running:
        yield running


@pytest.fixture(params=["socks5", "http"])
def proxy(request: pytest.FixtureRequest, ports: SimpleNamespace) -> str:
    """The flag that leads the browser to us."""
    port = ports.socks if request.param == "socks5" else ports.http
    return f"--proxy-server={request.param}://127.0.0.1:{port}"


def test_a_page_is_shown(house: Gateway, site: Nginx, tmp_path: Path, proxy: str) -> None:
    before = house.hits("plain.test")
    shown = dump_dom(tmp_path, f"http://plain.test:{site.port}/plain.html", proxy)
    assert "served by nginx" in shown
    assert house.hits("plain.test") > before


def test_a_page_is_shown_over_tls(house: Gateway, site: Nginx, tmp_path: Path, proxy: str, key_pin: str) -> None:
    shown = dump_dom(tmp_path, f"https://secure.test:{site.tls_port}/plain.html", proxy, key_pin)
    assert "served by nginx" in shown


def test_a_page_of_megabytes_is_whole(house: Gateway, site: Nginx, tmp_path: Path, proxy: str, key_pin: str) -> None:
    for url in (f"http://plain.test:{site.port}/big.html", f"https://secure.test:{site.tls_port}/big.html"):
        assert "all of it" in dump_dom(tmp_path, url, proxy, key_pin)


def test_parts_from_rejected_hosts_are_missing_and_the_rest_is_there(
    house: Gateway, site: Nginx, tmp_path: Path, proxy: str, key_pin: str
) -> None:
    rejected = house.hits("ads.test")
    seen_before = len(site.seen())
    shown = dump_dom(tmp_path, f"http://plain.test:{site.port}/busy.html", proxy, key_pin)
    told = sorted(re.findall("<li>(.*?)</li>", shown))
    lost = ["lost /late.js", "lost /pixel.svg", "lost /stray.svg", "lost /track.js"]
    assert told == ["got /dot.svg"] * 12 + ["got /lib.js", "got /own.js", *lost]
    assert house.hits("ads.test") >= rejected + 3
    asked = " ".join(site.seen()[seen_before:])
    assert "/own.js" in asked
    assert not re.search("track|pixel|late|stray", asked), "what is rejected never reaches the server"


def test_a_websocket_stays_open_and_is_listed_until_closed_through_the_api(
    house: Gateway, site: Nginx, tmp_path: Path, proxy: str
) -> None:
    with browser(tmp_path, proxy) as page:
        page.open(f"http://plain.test:{site.port}/socket.html")
        page.becomes("document.querySelector('#heard')?.textContent", "OVER THE WALL")
        # A browser asks an HTTP proxy for a tunnel when it wants a WebSocket, and sends plain pages as requests.
        kind = "Socks5" if "socks5" in proxy else "HTTPS"
        live = [one for one in house.connections("plain.test") if one["metadata"]["type"] == kind]
        socket_itself = max(live, key=lambda one: one["start"])
        assert socket_itself["rule"] == "Domain"
        assert socket_itself["rulePayload"] == "plain.test"
        assert socket_itself["chains"] == ["DIRECT"]
        assert socket_itself["metadata"]["destinationPort"] == str(site.port)
        assert socket_itself["upload"] > 0
        assert socket_itself["download"] > 0
        page.run("socket.send('still here')")
        page.becomes("heard.textContent", "STILL HERE")
        house.api(f"/connections/{socket_itself['id']}", method="DELETE")
        page.becomes("socket.readyState", 3)
        assert all(one["id"] != socket_itself["id"] for one in house.connections())


def test_a_group_switched_to_reject_closes_the_door_and_opens_it_again(
    house: Gateway, site: Nginx, tmp_path: Path, proxy: str, key_pin: str
) -> None:
    url = f"https://secure.test:{site.tls_port}/plain.html"
    with browser(tmp_path, proxy, key_pin) as page:
        house.api("/proxies/picked", method="PUT", body={"name": "REJECT"})
        try:
            assert page.open(url).startswith("net::ERR_")
        finally:
            house.api("/proxies/picked", method="PUT", body={"name": "DIRECT"})
        assert page.open(url) == ""
        page.shows("served by nginx")


def test_a_socks4_client_names_only_an_address_and_its_client_hello_tells_the_host(
    house: Gateway, site: Nginx, ports: SimpleNamespace, tmp_path: Path, key_pin: str
) -> None:
    resolved_by_the_browser = "--host-resolver-rules=MAP *.test 127.0.0.1"
    flags = (f"--proxy-server=socks4://127.0.0.1:{ports.mixed}", resolved_by_the_browser, key_pin)
    before = house.hits("secure.test")
    assert "served by nginx" in dump_dom(tmp_path, f"https://secure.test:{site.tls_port}/plain.html", *flags)
    assert house.hits("secure.test") > before
    assert "served by nginx" not in dump_dom(tmp_path, f"https://late.ads.test:{site.tls_port}/plain.html", *flags)


def test_a_rule_on_the_program_lets_chromium_pass_and_not_curl(
    house: Gateway, site: Nginx, ports: SimpleNamespace, tmp_path: Path, proxy: str
) -> None:
    url = f"http://only-chromium.test:{site.port}/plain.html"
    assert "served by nginx" in dump_dom(tmp_path, url, proxy)
    asked = [program("curl", "curl"), "-sSf", "-m", "10", "--proxy", f"socks5h://127.0.0.1:{ports.socks}", url]
    assert subprocess.run(asked, capture_output=True, check=False).returncode != 0


def test_a_browser_is_asked_for_a_user_and_logs_in(
    house: Gateway, site: Nginx, ports: SimpleNamespace, tmp_path: Path, key_pin: str
) -> None:
    with browser(tmp_path, f"--proxy-server=http://127.0.0.1:{ports.guarded}", key_pin) as page:
        assert page.open(f"https://secure.test:{site.tls_port}/plain.html") != ""
        page.answer_proxies("alice", "wonder land")
        assert page.open(f"http://plain.test:{site.port}/socket.html") == ""
        page.becomes("document.querySelector('#heard')?.textContent", "OVER THE WALL")
        users = until(
            "the tunnel is listed", lambda: {one["metadata"]["inboundUser"] for one in house.connections("plain.test")}
        )
        assert users == {"alice"}
        assert page.open(f"https://secure.test:{site.tls_port}/plain.html") == ""
        page.shows("served by nginx")
