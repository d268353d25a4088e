"""From bytes to a configuration: a whole file loads, and a bad one tells all that is wrong, each in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.config.load import load, load_default, patched
from cyfs_gateway.config.model import Config, ListenerConfig, Loaded
from cyfs_gateway.config.sniffing import sniff_input
from cyfs_gateway.config.view import clash_configs_view
from cyfs_ns.config.written import MAX_FAULTS, Fault, FileText, parse_duration
from cyfs_ns.errors import ConfigFault, Misuse
from tunnels.spec import HttpSpec, Socks5Spec

HOME = "/var/lib/cyfs"
FULL = (Path(__file__).parent / "full.yaml").read_bytes()


def read(text: str | bytes, **more: object) -> Loaded:
    return load(text if isinstance(text, bytes) else text.encode(), home=HOME, **more)  # type: ignore[arg-type]


def meant(text: str | bytes, **more: object) -> Config:
    loaded = read(text, **more)
    assert loaded.config is not None, loaded.faults
    return loaded.config


def errors(text: str | bytes, **more: object) -> list[tuple[str, int, str]]:
    return [(fault.path, fault.line, fault.message) for fault in read(text, **more).errors]


def only_error(text: str | bytes, **more: object) -> Fault:
    found = read(text, **more).errors
    assert len(found) == 1, found
    return found[0]


# A whole file


def test_a_large_clash_file_loads_without_an_error() -> None:
    loaded = read(FULL, module_sections=("health",))
    assert loaded.errors == ()
    assert not any("unknown key" in fault.message for fault in loaded.faults)
    config = loaded.config
    assert config is not None
    assert config.mode == "rule"
    assert config.users == {"alice": "correct horse", "bob": "battery:staple"}
    assert len(config.rules) == 25
    assert [group.name for group in config.groups][:2] == ["proxy", "auto"]
    assert [proxy.name for proxy in config.unsupported] == ["ss1", "123", "wg"]
    assert config.timeouts.handshake == 1.5
    assert config.modules == {"health": {"listen": "127.0.0.1:8099"}}
    assert config.control.tcp == ("127.0.0.1", 9093)
    assert sniff_input(config.sniffer).enable


def test_merge_keys_make_one_proxy_out_of_another() -> None:
    config = meant(FULL)
    plain, tls = config.proxies[0], config.proxies[1]
    assert isinstance(plain, Socks5Spec) and isinstance(tls, Socks5Spec)
    assert (plain.server, plain.tls) == (tls.server, not tls.tls)
    assert tls.tls_options.fingerprint == "aa" * 32


def test_include_all_spreads_out_in_file_order_through_its_filter() -> None:
    group = next(group for group in meant(FULL).groups if group.name == "everything")
    assert group.members == ("socks", "socks tls", "http", "direct4", "dns-out", "ss1")
    assert group.use == ("provider1", "local", "written")


def test_no_secret_shows_in_print() -> None:
    shown = repr(read(FULL))
    for secret in ("correct horse", "hush", "123456'", "'bbb'", "password='p"):
        assert secret not in shown


def test_a_hundred_thousand_rules_load() -> None:
    rules = "\n".join(f"- DOMAIN-SUFFIX,host{i}.example,DIRECT" for i in range(100_000))
    assert len(meant("rules:\n" + rules).rules) == 100_000


def test_without_a_file_there_is_a_mixed_port_on_loopback() -> None:
    config = load_default(HOME).config
    assert config is not None
    assert [(one.kind, one.listen, one.port) for one in config.listeners] == [
        ("mixed", "127.0.0.1", 7890),
        ("mixed", "::1", 7890),
    ]
    assert [str(rule) for rule in config.rules] == ["MATCH,DIRECT"]
    assert config.control.unix == "/var/lib/cyfs/cyfs-gateway.sock"
    assert config.control.tcp is None


def test_an_empty_file_is_all_defaults_with_a_word_about_it() -> None:
    loaded = read(b"# nothing\n")
    assert loaded.config is not None
    assert [fault.severity for fault in loaded.faults] == ["warning"]


# Everything wrong, at once and in its place

BAD = """\
port: 70000
mode: ruel
allow-lan: maybe
proxies:
  - {name: a, type: socks5, server: a.example}
  - {name: a, type: http, server: b.example, port: 80}
  - {name: c, type: sock5, server: b.example, port: 80}
  - just text
proxy-groups:
  - {name: g, type: select, proxies: [a, nobody]}
rules:
  - DOMAIN,x.example,nowhere
  - DOMAINS,x.example,DIRECT
  - RULE-SET,absent,DIRECT
dns:
  nameserver: [ftp://x]
"""


def test_all_faults_come_out_together() -> None:
    found = errors(BAD)
    assert [(path, line) for path, line, _ in found] == [
        ("/port", 1),
        ("/mode", 2),
        ("/allow-lan", 3),
        ("/proxies/0", 5),
        ("/proxies/1/name", 6),
        ("/proxies/2/type", 7),
        ("/proxies/3", 8),
        ("/proxy-groups/0/proxies/1", 10),
        ("/rules/0", 12),
        ("/rules/1", 13),
        ("/rules/2", 14),
        ("/dns/nameserver/0", 16),
    ]
    assert "did you mean 'rule'" in found[1][2]
    assert "did you mean 'socks5'" in found[5][2]


def test_an_unknown_key_warns_with_its_place_and_the_nearest_known_one() -> None:
    loaded = read("mixed-port: 1\nmixd-port: 2\ndns:\n  enabled: true\n")
    assert [(f.path, f.line, f.column, f.severity) for f in loaded.faults] == [
        ("/mixd-port", 2, 1, "warning"),
        ("/dns/enabled", 4, 3, "warning"),
    ]
    assert "did you mean 'mixed-port'" in loaded.faults[0].message
    assert "did you mean 'enable'" in loaded.faults[1].message


@pytest.mark.parametrize(
    ("text", "path", "line", "says"),
    [
        ("- a\n", "/", 1, "expected a mapping, found a list"),
        ("a: [", "/", 2, "flow node"),
        ("mixed-port: [1]", "/mixed-port", 1, "a whole number, found a list"),
        ("mixed-port: 1.5", "/mixed-port", 1, "whole number, found '1.5'"),
        ("mixed-port: -1", "/mixed-port", 1, "out of range"),
        ("ipv6: 2", "/ipv6", 1, "true or false, found '2'"),
        ("authentication: [nocolon]", "/authentication/0", 1, "user:password"),
        ("lan-allowed-ips: [300.0.0.0/8]", "/lan-allowed-ips/0", 1, "expected a prefix"),
        ("bind-address: nowhere", "/bind-address", 1, "expected an address"),
        ("interface-name: far-too-long-a-name", "/interface-name", 1, "interface"),
        ("routing-mark: 0x1ffffffff", "/routing-mark", 1, "out of range"),
        ("timeouts: {connect: soon}", "/timeouts/connect", 1, "duration"),
        ("external-controller: nine", "/external-controller", 1, "an address and a port"),
        ("external-controller: panel.example:90", "/external-controller", 1, "an address and a port"),
        ("external-controller-tls: 127.0.0.1:1", "/external-controller-tls", 1, "certificate"),
        (f"external-controller-unix: /{'x' * 108}", "/external-controller-unix", 1, "107 bytes"),
        ("external-ui: ../../etc", "/external-ui", 1, "out of the home directory"),
        ("external-ui-name: ../x", "/external-ui-name", 1, "name of a directory"),
        (
            "external-controller-cors: {allow-origins: [panel]}",
            "/external-controller-cors/allow-origins/0",
            1,
            "origin",
        ),
        ("hosts: {a.example: 'not a host'}", "/hosts/a.example", 1, "expected an address"),
        ("hosts: {a.example: b.example, b.example: a.example}", "/hosts", 1, "aliases"),
        ("hosts: {'a/b': 1.1.1.1}", "/hosts/a~1b", 1, "domain pattern"),
        ("dns: {default-nameserver: [tls://dns.example]}", "/dns/default-nameserver/0", 1, "must be an address"),
        ("dns: {fake-ip-range: 1}", "/dns/fake-ip-range", 1, "IPv4 prefix"),
        ("sniffer: {sniff: {SSH: {}}}", "/sniffer/sniff/SSH", 1, "no sniffer"),
        ("sniffer: {sniff: {TLS: {ports: [9-1]}}}", "/sniffer/sniff/TLS/ports/0", 1, "ports such as"),
        ("sniffer: {skip-dst-address: [x]}", "/sniffer/skip-dst-address/0", 1, "prefix"),
        ("proxies: {a: b}", "/proxies", 1, "expected a list, found a mapping"),
        ("proxies: [{type: direct}]", "/proxies/0", 1, "'name' is missing"),
        ("proxies: [{name: DIRECT, type: direct}]", "/proxies/0/name", 1, "taken"),
        ("proxies: [{name: a, type: http, server: 'a b', port: 1}]", "/proxies/0/server", 1, "neither a host"),
        ("proxies: [{name: a, type: http, server: 127.1, port: 1}]", "/proxies/0/server", 1, "neither a host"),
        ("proxies: [{name: a, type: http, server: a, port: 0}]", "/proxies/0/port", 1, "1 to 65535"),
        (
            'proxies: [{name: a, type: http, server: a, port: 1, headers: {X: "a\\r\\nb"}}]',
            "/proxies/0/headers/X",
            1,
            "HTTP header",
        ),
        ("proxies: [{name: a, type: direct, dialer-proxy: b}]", "/proxies/0/dialer-proxy", 1, "no proxy or group 'b'"),
        ("proxies: [{name: a, type: direct, dialer-proxy: a}]", "/proxies", 1, "circle: a -> a"),
        ("proxy-groups: [{name: g, type: select}]", "/proxy-groups/0", 1, "needs 'proxies' or 'use'"),
        ("proxy-groups: [{name: g, type: select, use: [p]}]", "/proxy-groups/0/use/0", 1, "no proxy provider"),
        ("proxy-groups: [{name: g, type: best, proxies: [DIRECT]}]", "/proxy-groups/0/type", 1, "expected one of"),
        (
            "proxy-groups: [{name: g, type: select, proxies: [DIRECT], filter: '('}]",
            "/proxy-groups/0/filter",
            1,
            "cannot be used",
        ),
        (
            "proxy-groups:\n- {name: a, type: select, proxies: [b]}\n- {name: b, type: select, proxies: [a]}",
            "/proxy-groups",
            2,
            "circle: a -> b -> a",
        ),
        ("proxy-providers: {p: {type: http}}", "/proxy-providers/p", 1, "'url' is missing"),
        ("proxy-providers: {p: {type: file, path: ../../x}}", "/proxy-providers/p/path", 1, "home directory"),
        ("proxy-providers: {p: {type: file, path: /var/lib/cyfs2/x}}", "/proxy-providers/p/path", 1, "home directory"),
        ("proxy-providers: {p: {type: http, url: 'file:///etc/passwd'}}", "/proxy-providers/p/url", 1, "http or https"),
        ("proxy-providers: {p: }", "/proxy-providers/p", 1, "expected a mapping"),
        (
            "rule-providers: {r: {type: file, behavior: classical, format: mrs, path: x}}",
            "/rule-providers/r/format",
            1,
            "mrs",
        ),
        ("rules:\n- [a]", "/rules/0", 2, "expected text, found a list"),
        ("rules: MATCH", "/rules", 1, "expected a list of rules"),
        ("rules: ['SUB-RULE,(NETWORK,tcp),s']", "/rules/0", 1, "no sub-rule list 's'"),
        ("rules: ['AND,((RULE-SET,x),(NETWORK,tcp)),DIRECT']", "/rules/0", 1, "no rule provider 'x'"),
        ("sub-rules: {s: ['SUB-RULE,(NETWORK,tcp),s']}", "/sub-rules", 1, "circle: s -> s"),
        ("tunnels: ['tcp,127.0.0.1:1']", "/tunnels/0", 1, "expected 'tcp/udp,"),
        ("tunnels: ['tcp,127.0.0.1:1,nowhere,DIRECT']", "/tunnels/0/target", 1, "host:port"),
        ("tunnels: ['tcp,127.0.0.1:1,a:1,nobody']", "/tunnels/0/proxy", 1, "no proxy or group"),
        ("listeners: [{name: a, type: mixd, port: 1}]", "/listeners/0/type", 1, "did you mean 'mixed'"),
        ("listeners: [{name: a, type: mixed, port: 9-1}]", "/listeners/0/port", 1, "out of range"),
        ("listeners: [{name: a, type: mixed, port: 1, rule: r}]", "/listeners/0/rule", 1, "no sub-rule list"),
        ("listeners: [{name: a, type: mixed, port: 1, listen: x}]", "/listeners/0/listen", 1, "expected an address"),
        ("mixed-port: 80\nport: 80", "/mixed-port", 1, "already taken by DEFAULT-HTTP"),
        (
            "mixed-port: 80\nlisteners: [{name: a, type: http, port: 80, listen: 0.0.0.0, users: [{username: a}]}]",
            "/listeners/0/port",
            2,
            "already taken",
        ),
        ("mixed-port: 80\nexternal-controller: 127.0.0.1:80", "/external-controller", 2, "already taken"),
    ],
)
def test_one_fault(text: str, path: str, line: int, says: str) -> None:
    found = errors(text)
    assert (path, line) in [(where, at) for where, at, _ in found], found
    assert any(says in message for where, _, message in found if where == path), found


def test_faults_without_end_are_counted() -> None:
    loaded = read("rules:\n" + "- X\n" * (MAX_FAULTS + 50))
    assert len(loaded.faults) == MAX_FAULTS + 1
    assert "50 more" in loaded.faults[-1].message


def test_a_fault_stays_on_its_line_however_hostile_the_text() -> None:
    loaded = read('"a\\nb\\e[2J": 1\nmode: "x\\r\\n' + "y" * 5000 + '"')
    for fault in loaded.faults:
        assert str(fault).isprintable()
        assert len(str(fault)) < 1000


# Words that mean several things


@pytest.mark.parametrize(("word", "value"), [("true", True), ("yes", True), ("On", True), ("off", False)])
def test_a_boolean_may_be_said_in_yaml_one_point_one(word: str, value: bool) -> None:
    assert meant(f"unified-delay: {word}").unified_delay is value


def test_names_that_look_like_other_things_stay_names() -> None:
    proxies = "proxies: [{name: 123, type: direct}, {name: on, type: direct}, {name: 0x10, type: direct}]"
    config = meant(proxies + "\nrules: ['MATCH,on']\nproxy-groups: [{name: 1.0, type: select, proxies: [123, 0x10]}]")
    assert [proxy.name for proxy in config.proxies] == ["123", "on", "0x10"]
    assert config.groups[0].members == ("123", "0x10")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1d", 86400.0),
        ("", None),
        ("5x", None),
        ("-1", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_a_module_section_is_plain_data_by_the_core_rules() -> None:
    section = "health: {a: on, b: true, c: 12, d: 1.5, e: null, f: '12', g: [x, {h: ~}]}"
    assert meant(section, module_sections=("health",)).modules["health"] == {
        "a": "on",
        "b": True,
        "c": 12,
        "d": 1.5,
        "e": None,
        "f": "12",
        "g": ["x", {"h": None}],
    }


# Where listeners listen, and that none is open by omission


def places(config: Config) -> list[tuple[str, str, int]]:
    return [(one.kind, one.listen, one.port) for one in config.listeners]


def test_loopback_unless_said_otherwise() -> None:
    assert places(meant("socks-port: 1080\nipv6: false")) == [("socks", "127.0.0.1", 1080)]
    assert places(meant("listeners: [{name: a, type: http, port: 81}]\nbind-address: '*'")) == [
        ("http", "127.0.0.1", 81),
        ("http", "::1", 81),
    ]


def test_the_ipv6_twin_is_optional() -> None:
    assert [(one.listen, one.optional) for one in meant("mixed-port: 1").listeners] == [
        ("127.0.0.1", False),
        ("::1", True),
    ]
    alone = meant("listeners: [{name: a, type: http, port: 81, listen: '::1'}]").listeners
    assert [(one.listen, one.optional) for one in alone] == [("::1", False)]


@pytest.mark.parametrize(
    "top",
    [
        "mixed-port: 1\nallow-lan: true",
        "mixed-port: 1\nallow-lan: true\nbind-address: 192.0.2.1",
        "mixed-port: 1\nallow-lan: true\nlan-allowed-ips: [0.0.0.0/0, '::/0']",
        "mixed-port: 1\nallow-lan: true\nlan-allowed-ips: [0.0.0.0/1, 128.0.0.0/1, '::/0']",
        "mixed-port: 1\nallow-lan: true\nauthentication: ['u:p']\nskip-auth-prefixes: [0.0.0.0/0]",
        "listeners: [{name: a, type: socks, port: 1, listen: 0.0.0.0}]",
        "authentication: ['u:p']\nlisteners: [{name: a, type: socks, port: 1, listen: 0.0.0.0, users: []}]",
    ],
)
def test_an_open_proxy_is_refused(top: str) -> None:
    found = errors(top)
    assert found and all("open proxy" in message for _, _, message in found)


@pytest.mark.parametrize(
    "top",
    [
        "mixed-port: 1\nallow-lan: true\nauthentication: ['u:p']",
        "mixed-port: 1\nallow-lan: true\nlan-allowed-ips: [192.168.0.0/16]",
        "listeners: [{name: a, type: socks, port: 1, listen: 0.0.0.0, users: [{username: a, password: b}]}]",
        "listeners: [{name: a, type: socks, port: 1, listen: 0.0.0.0, allowed-ips: [10.0.0.0/8]}]",
        "listeners: [{name: a, type: tunnel, port: 1, listen: 0.0.0.0, target: 'a:1'}]",
        "redir-port: 1\ntproxy-port: 2\nallow-lan: true",
    ],
)
def test_a_listener_that_knows_whom_it_serves_may_be_public(top: str) -> None:
    assert any(not one.listen.startswith("127.") for one in meant(top).listeners)


def test_a_listener_takes_the_common_users_unless_it_has_its_own() -> None:
    text = """
authentication: ['u:p']
skip-auth-prefixes: [10.0.0.0/8]
listeners:
- {name: common, type: http, port: 1, listen: 127.0.0.1}
- {name: own, type: http, port: 2, listen: 127.0.0.1, users: [{username: v, password: w}]}
- {name: none, type: http, port: 3, listen: 127.0.0.1, users: []}
"""
    common, own, none = meant(text).listeners
    assert (common.users, own.users, none.users) == ({"u": "p"}, {"v": "w"}, None)
    assert (len(common.skip_auth_prefixes), own.skip_auth_prefixes) == (1, ())


def test_a_range_of_ports_is_a_listener_on_each() -> None:
    text = "listeners: [{name: a, type: http, port: '80,443/8000-8001', listen: 127.0.0.1}]"
    assert [one.port for one in meant(text).listeners] == [80, 443, 8000, 8001]


def test_udp_and_tcp_may_share_a_port() -> None:
    assert meant("tunnels: ['tcp,127.0.0.1:5,a:1,DIRECT', 'udp,127.0.0.1:5,a:1,DIRECT']").listeners[1].network == (
        "udp",
    )


def test_what_this_build_cannot_open_warns_and_stays_closed() -> None:
    loaded = read(
        "tun: {enable: true}\nss-config: 'ss://x'\n"
        "listeners: [{name: t, type: tun, port: 1}, {name: e, type: http, port: 2, certificate: x, private-key: y}]"
    )
    assert loaded.config is not None and loaded.config.listeners == ()
    assert [fault.path for fault in loaded.faults] == [
        "/tun/enable",
        "/ss-config",
        "/listeners/0/type",
        "/listeners/1/certificate",
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("geo-auto-update: true", "/geo-auto-update"),
        ("external-ui-url: https://panel.example/ui.zip", "/external-ui-url"),
        ("external-doh-server: /dns-query", "/external-doh-server"),
        ("dns: {enable: true, prefer-h3: true}", "/dns/prefer-h3"),
    ],
)
def test_what_has_no_effect_is_said(text: str, path: str) -> None:
    assert [(fault.path, fault.severity) for fault in read(text).faults] == [(path, "warning")]


# Control


def test_tcp_control_without_a_secret_wants_one() -> None:
    assert meant("external-controller: 127.0.0.1:9090").control.secret_wanted
    assert not meant("external-controller: 127.0.0.1:9090\nsecret: s").control.secret_wanted
    assert not meant("mode: rule").control.secret_wanted


def test_a_star_for_origins_is_dropped() -> None:
    loaded = read("external-controller-cors: {allow-origins: ['*', 'https://Panel.example']}")
    assert loaded.config is not None
    assert loaded.config.control.allow_origins == ("https://panel.example",)
    assert [fault.severity for fault in loaded.faults] == ["warning"]


# Secrets from elsewhere


def test_environment_and_files_are_looked_behind() -> None:
    asked: list[str] = []

    def files(path: str) -> FileText:
        asked.append(path)
        return FileText(b"from file\r\n", exposed=False)

    text = "secret: !file keys/secret\nmixed-port: !env PORT\nauthentication: [!env USER_PASS]"
    config = meant(text, environ={"PORT": "7999", "USER_PASS": "u:p"}, read_file=files)
    assert config.control.secret == "from file"
    assert config.listeners[0].port == 7999
    assert config.users == {"u": "p"}
    assert set(asked) == {"keys/secret"}


def test_a_missing_variable_and_a_missing_file_are_faults() -> None:
    def files(path: str) -> FileText:
        raise ConfigFault("no such file")

    found = errors("secret: !file x\nmixed-port: !env NO_SUCH", environ={}, read_file=files)
    assert [(path, line) for path, line, _ in found] == [("/secret", 1), ("/mixed-port", 2)]


def test_a_secret_never_shows_in_a_fault() -> None:
    loaded = read("mixed-port: !env SECRET\nmode: !env SECRET", environ={"SECRET": "hush-hush"})
    assert loaded.config is None
    assert not any("hush" in str(fault) for fault in loaded.faults)


def test_a_file_that_others_can_read_warns() -> None:
    loaded = read("secret: !file x", read_file=lambda path: FileText(b"s", exposed=True))
    assert loaded.config is not None
    assert [(fault.path, fault.severity) for fault in loaded.faults] == [("/secret", "warning")]


def test_without_the_means_references_are_refused() -> None:
    assert [path for path, _, _ in errors("secret: !env HOME\nglobal-ua: !file /etc/passwd")] == [
        "/secret",
        "/global-ua",
    ]


# Changes at run time


def test_a_change_passes_the_same_checks() -> None:
    before = read("mixed-port: 7890\nrules: ['MATCH,DIRECT']\nsniffer: {parse-pure-ip: false}")
    after = patched(before, {"mode": "global", "mixed-port": 7999, "sniffing": True, "log-level": "debug"})
    assert after.config is not None and before.config is not None
    assert (after.config.mode, after.config.log_level) == ("global", "debug")
    assert [one.port for one in after.config.listeners] == [7999, 7999]
    assert after.config.sniffer.enable and not after.config.sniffer.parse_pure_ip
    assert after.config.rules is before.config.rules
    assert before.config.mode == "rule"
    again = patched(after, {"mixed-port": 0})
    assert again.config is not None
    assert (again.config.listeners, again.config.mode) == ((), "global")
    opened = patched(before, {"allow-lan": True})
    assert opened.config is None
    assert all("open proxy" in fault.message for fault in opened.errors)


def test_a_change_that_cannot_be_is_refused_or_passed_over() -> None:
    before = read("mixed-port: 7890")
    assert patched(before, {"mode": "fast"}).config is None
    assert patched(before, {"mode": {"a": [object()]}}).config is None
    kept = patched(before, {"secret": "x"})
    assert kept.config is not None and kept.config.control.secret == ""
    assert [fault.path for fault in kept.faults] == ["/secret"]
    with pytest.raises(Misuse):
        patched(read("mixed-port: x"), {})


def test_the_view_has_the_keys_of_clash_and_no_password() -> None:
    view = clash_configs_view(meant(FULL))
    keys = (
        "port socks-port redir-port tproxy-port mixed-port tun tuic-server ss-config vmess-config authentication "
        "skip-auth-prefixes lan-allowed-ips lan-disallowed-ips allow-lan bind-address inbound-tfo inbound-mptcp mode "
        "unified-delay log-level ipv6 interface-name routing-mark geox-url geo-auto-update geo-update-interval "
        "geodata-mode geodata-loader geosite-matcher tcp-concurrent find-process-mode sniffing "
        "global-client-fingerprint global-ua etag-support keep-alive-idle keep-alive-interval disable-keep-alive"
    )
    assert set(view) == set(keys.split())
    assert view["authentication"] == ["alice", "bob"]
    assert (view["mixed-port"], view["sniffing"], view["mode"]) == (7892, True, "rule")


# Any bytes at all

words = st.sampled_from(
    (
        *("port", "mixed-port", "mode", "rules", "proxies", "proxy-groups", "dns", "listeners", "tunnels", "sniffer"),
        *("hosts", "name", "type", "server", "use", "users", "authentication", "proxy-providers", "rule-providers"),
        *("sub-rules", "payload", "override", "filter", "interval", "url", "path", "<<"),
    )
)
leaves = st.one_of(
    st.sampled_from(("MATCH,DIRECT", "select", "socks5", "a", "::1", "0.0.0.0:1", "http://x/", "7890", "true", "~")),
    st.sampled_from(("!env X", "inline")),
    st.integers().map(str),
    st.text(max_size=6),
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=25,
)


def spelled(tree: object) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {spelled(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(spelled, tree)) + "]"
    return str(tree)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=100), st.dictionaries(words, trees, max_size=6).map(lambda t: spelled(t).encode())))
def test_any_bytes_give_a_configuration_or_faults(data: bytes) -> None:
    loaded = load(data, home=HOME, environ={"X": "1"}, module_sections=("payload",))
    assert (loaded.config is None) == bool(loaded.errors)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(FULL) - 1), st.binary(min_size=1, max_size=3))
def test_a_damaged_file_gives_a_configuration_or_faults(at: int, damage: bytes) -> None:
    loaded = load(FULL[:at] + damage + FULL[at + len(damage) :], home=HOME)
    assert (loaded.config is None) == bool(loaded.errors)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(words, st.one_of(st.integers(), st.booleans(), st.none(), st.text(max_size=5)), max_size=4))
def test_any_change_gives_a_configuration_or_faults(changes: dict[str, object]) -> None:
    after = patched(read("mixed-port: 7890"), changes)
    assert (after.config is None) == bool(after.errors)


def test_listener_keys_tell_sockets_apart() -> None:
    one = ListenerConfig(name="a", kind="http", listen="127.0.0.1", port=1)
    assert one.key == ("http", "127.0.0.1", 1)
    assert not one.auth_required


def test_http_headers_stay_out_of_print() -> None:
    config = meant("proxies: [{name: a, type: http, server: a.example, port: 1, headers: {Authorization: hush}}]")
    proxy = config.proxies[0]
    assert isinstance(proxy, HttpSpec) and proxy.headers == {"Authorization": "hush"}
    assert "hush" not in repr(config)


def test_switching_on_what_this_build_lacks_is_an_error_at_run_time() -> None:
    loaded = load(b"tun: {enable: true}\n", home="/home")
    assert loaded.config is not None
    again = patched(loaded, {"tun": {"enable": True}})
    assert again.config is None
    assert [(fault.path, fault.severity) for fault in again.errors] == [("/tun/enable", "error")]
    assert patched(loaded, {"tun": {"enable": False}}).config is not None


def test_groups_in_groups_have_a_limit() -> None:
    def nested(depth: int) -> bytes:
        groups = [
            f"- {{name: g{n}, type: select, proxies: [{f'g{n + 1}' if n < depth else 'DIRECT'}]}}"
            for n in range(1, depth + 1)
        ]
        return ("proxy-groups:\n" + "\n".join(groups)).encode()

    assert load(nested(15), home="/home").config is not None
    (fault,) = load(nested(16), home="/home").errors
    assert fault.path == "/proxy-groups" and "'g1' leads through 17" in fault.message
    assert load(nested(3000), home="/home").config is None


def test_rule_lists_in_rule_lists_have_a_limit_whichever_stands_first() -> None:
    def nested(depth: int) -> bytes:
        """Written from the innermost out: every list is compiled before the one that leads to it."""
        inner = [f'l{n}: ["SUB-RULE,(NETWORK,tcp),l{n + 1}"]' for n in range(depth - 1, 0, -1)]
        lists = "".join(f"  {line}\n" for line in [f'l{depth}: ["MATCH,DIRECT"]', *inner])
        return f'sub-rules:\n{lists}rules: ["SUB-RULE,(NETWORK,tcp),l1"]\n'.encode()

    assert load(nested(32), home="/home").config is not None
    (fault,) = load(nested(33), home="/home").errors
    assert fault.path == "/sub-rules" and "'l1' leads through 33" in fault.message
    assert load(nested(3000), home="/home").config is None


@pytest.mark.parametrize("key", ["interface-name: lo", "routing-mark: 5", "empty-fallback: DIRECT"])
def test_keys_of_groups_without_effect_are_named(key: str) -> None:
    loaded = read(f"proxy-groups:\n  - {{name: a, type: select, proxies: [DIRECT], {key}}}\nrules: ['MATCH,a']")
    (fault,) = loaded.faults
    assert (fault.path, fault.line, fault.severity) == (f"/proxy-groups/0/{key.partition(':')[0]}", 2, "warning")


def test_bad_lines_of_an_inline_rule_set_are_named() -> None:
    text = """
rule-providers:
  mixed: {type: inline, behavior: classical, payload: ["DOMAIN,good.test", "NOPE,1", "PROCESS-NAME-REGEX,cu(rl"]}
  names: {type: inline, behavior: domain, payload: [+.good.test, "no host"]}
  bad: {type: inline, behavior: ipcidr, payload: [192.0.2.0/99]}
"""
    faults = {fault.path: fault for fault in read(text).faults}
    assert list(faults) == [
        "/rule-providers/mixed/payload/1",
        "/rule-providers/mixed/payload/2",
        "/rule-providers/names/payload/1",
        "/rule-providers/bad/payload",
    ]
    assert [fault.severity for fault in faults.values()] == ["warning"] * 3 + ["error"]
    assert "b'" not in faults["/rule-providers/mixed/payload/2"].message
