"""Tunnel URLs: the grammar, nesting, hiding, and "a value or its one error" for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import ConfigFault
from tunnels.endpoint import Target
from tunnels.url import TunnelUrl, has_scheme, nest, parse


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("tcp:///127.0.0.1:8080", Target("127.0.0.1", 8080)),
        ("rtcp://box/xba.dev.did:8080/krpc/api_test?a=1", Target("xba.dev.did", 8080)),
        ("tcp:///[2600:1700::1]:8080/x", Target("2600:1700::1", 8080)),
        ("rtcp://box:2980/:8080", Target("", 8080)),
        ("tls:///Example.ORG.:443", Target("example.org", 443)),
        ("socks://u:p@h/%5B::1%5D:0", Target("::1", 0)),
    ],
)
def test_the_path_is_the_destination(text: str, goal: Target) -> None:
    assert parse(text).destination == goal


@pytest.mark.parametrize(
    "text",
    [
        "tcp://",
        "tcp:///",
        "tcp:///host",
        "tcp:///1:2:3",
        "tcp:///[::1]",
        "tcp:///h:70000",
        "tcp:///h:+1",
        "tcp:///127.1:80",
    ],
)
def test_a_path_without_destination_is_a_fault_when_asked(text: str) -> None:
    url = parse(text)
    with pytest.raises(ConfigFault):
        _ = url.destination


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org:80",
        "://x",
        "1tcp://x",
        "tcp://a b/",
        "tcp://é/",
        "tcp://h/%zz",
        "tcp://a@b@c/",
        "tcp://@h/",
        "tcp://[::1/x",
        "tcp://[]/x",
        "tcp://[1.2.3.4]/x",
        "tcp://h:port/",
        "tcp://h:٣/",
        "rtcp://did:bns:alice/:80",
        "tcp:///tls%3A%2F%2F%5B",
        "tcp://" + "x" * 9000,
    ],
)
def test_what_is_no_tunnel_url_is_one_fault(text: str) -> None:
    with pytest.raises(ConfigFault):
        parse(text)


def test_parts() -> None:
    url = parse("SOCKS://ali%40ce:p%3Aw@Proxy.Example:1080/host:1?b=2&a=1#here")
    assert (url.scheme, url.host, url.port, url.query) == ("socks", "proxy.example", 1080, "b=2&a=1")
    assert url.credentials == ("ali@ce", "p:w")
    assert url.carrier is None
    assert str(url) == "socks://ali%40ce:p%3Aw@proxy.example:1080/host:1?b=2&a=1"
    assert url.normalised == "socks://ali%40ce:p%3Aw@proxy.example:1080/host:1?a=1&b=2"


def test_both_nestings() -> None:
    hop = parse("socks://u:p@hop:1080")
    inner = parse(f"tls:///{nest(parse('tcp:///host:443'))}")
    url = parse(f"rtcp://{nest(hop)}@box.example:2980/{nest(inner)}")
    assert url.carrier == hop
    assert url.credentials == ("", "")
    assert url.destination == inner
    assert isinstance(inner.destination, TunnelUrl)
    assert inner.destination.destination == Target("host", 443)


def test_credentials_are_hidden_wherever_they_are() -> None:
    hop = parse("socks://user:hunter2@hop:1080")
    url = parse(f"rtcp://{nest(hop)}@box/{nest(parse(f'socks://bob:hunter3@far/{nest(hop)}'))}")
    for text in (url.redacted, repr(url), repr(hop)):
        assert "hunter" not in text and "user" not in text and "bob" not in text
    assert url.secretive and parse(url.redacted).secretive
    assert not parse("tcp:///a:1").secretive
    assert parse("tcp:///a:1").redacted == "tcp:///a:1"


def test_faults_never_quote_credentials() -> None:
    for text in ("socks://u:hunter2@h:x/", "socks://u:hunter2@@h/", "socks://u:hunter2 @h/", "socks://u:hunter2@[/"):
        with pytest.raises(ConfigFault) as fault:
            parse(text)
        assert "hunter" not in str(fault.value)


def test_one_key_for_all_spellings() -> None:
    a = parse("TLS:///Example.org:443?b=1&a=2#x")
    b = parse("tls:///Example.org:443?a=2&b=1")
    assert a.normalised == b.normalised
    carried = [parse(f"rtcp://{nest(parse(inner))}@box/:1") for inner in ("socks://h:1?b&a", "socks://H:1?a&b")]
    assert carried[0].normalised == carried[1].normalised


_texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="tcplsrok:/@[]%.2F3A:?&#019azAZ-", max_size=80),
    st.builds(
        "{}://{}{}/{}".format,
        st.sampled_from(["tcp", "socks", "TLS", "rtcp"]),
        st.sampled_from(["", "u:p@", "socks%3A%2F%2Fh%3A1@", "socks%3A%2F%2F%5B@"]),
        st.sampled_from(["", "h", "H.:1", "[::1]:2", "[0:0::1]", "1.2.3.4:5"]),
        st.sampled_from(["", "h:1", ":1", "%5B::1%5D:1", "tls%3A%2F%2F%2Fh%3A1/x?b&a", "tls%3A%2F%2F%40"]),
    ),
)


@given(_texts)
@settings(max_examples=200)
def test_any_text_is_a_url_or_a_fault(text: str) -> None:
    try:
        url = parse(text)
    except ConfigFault:
        return
    assert has_scheme(text)
    assert parse(str(url)) == url
    normal = parse(url.normalised)
    assert normal.normalised == url.normalised
    shown = parse(url.redacted)
    assert shown.redacted == url.redacted
    for part in ("carrier", "credentials", "secretive"):
        getattr(url, part)
    try:
        goal = url.destination
    except ConfigFault:
        return
    assert isinstance(goal, TunnelUrl | Target)
