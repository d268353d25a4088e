"""Every route answers in the shape that dashboards expect: schemas, over real sockets, with curl."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from control_house import SECRET, House, connection, curl

from cyfs_gateway.control.shapes import metadata_json
from cyfs_gateway.flow import Flow, Identity
from cyfs_ns.trust.level import Trust

TEXT, NUMBER, COUNT, YES = (
    {"type": "string"},
    {"type": "number"},
    {"type": "integer", "minimum": 0},
    {"type": "boolean"},
)
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"}
PORT = {"type": "string", "pattern": r"^\d{1,5}$"}
TEXTS = {"type": "array", "items": TEXT}


def obj(optional: dict[str, Any] | None = None, /, **keys: Any) -> dict[str, Any]:
    """Exactly these keys, underscores standing for dashes; ``optional`` ones besides."""
    properties = {key.replace("_", "-"): value for key, value in keys.items()}
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
        "additionalProperties": False,
    }


def mapping(of: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": of, "minProperties": 1}


def listing(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


PROXY = obj(
    {"now": TEXT, "all": TEXTS, "testUrl": TEXT, "expectedStatus": TEXT, "fixed": TEXT, "hidden": YES, "icon": TEXT},
    name=TEXT,
    type=TEXT,
    id=TEXT,
    udp=YES,
    uot=YES,
    xudp=YES,
    tfo=YES,
    mptcp=YES,
    smux=YES,
    alive=YES,
    history={"type": "array", "items": obj(time=TIME, delay=COUNT)},
    extra={"type": "object"},
    interface=TEXT,
    routing_mark=COUNT,
    dialer_proxy=TEXT,
    provider_name=TEXT,
)
METADATA = obj(
    network={"enum": ["tcp", "udp"]},
    type=TEXT,
    sourceIP=TEXT,
    destinationIP=TEXT,
    sourceGeoIP=TEXTS,
    destinationGeoIP=TEXTS,
    sourceIPASN=TEXT,
    destinationIPASN=TEXT,
    sourcePort=PORT,
    destinationPort=PORT,
    inboundIP=TEXT,
    inboundPort=PORT,
    inboundName=TEXT,
    inboundUser=TEXT,
    host=TEXT,
    dnsMode={"enum": ["normal", "fake-ip", "redir-host", "hosts"]},
    uid=COUNT,
    process=TEXT,
    processPath=TEXT,
    specialProxy=TEXT,
    specialRules=TEXT,
    remoteDestination=TEXT,
    dscp=COUNT,
    sniffHost=TEXT,
)
CONNECTION = obj(
    id=TEXT,
    metadata=METADATA,
    upload=COUNT,
    download=COUNT,
    start=TIME,
    chains=TEXTS,
    providerChains=TEXTS,
    rule=TEXT,
    rulePayload=TEXT,
)
CONNECTIONS = obj(
    downloadTotal=COUNT, uploadTotal=COUNT, memory=COUNT, connections={"type": "array", "items": CONNECTION}
)
RULE = obj(
    index=COUNT,
    type=TEXT,
    payload=TEXT,
    proxy=TEXT,
    size={"type": "integer", "minimum": -1},
    extra=obj(disabled=YES, hitCount=COUNT, hitAt=TIME, missCount=COUNT, missAt=TIME),
)
PROXY_PROVIDER = obj(name=TEXT, type={"const": "Proxy"}, vehicleType=TEXT, proxies=TEXTS, testUrl=TEXT, updatedAt=TEXT)
RULE_PROVIDER = obj(
    name=TEXT, type={"const": "Rule"}, behavior=TEXT, format=TEXT, ruleCount=COUNT, vehicleType=TEXT, updatedAt=TEXT
)
DNS = obj(
    {"Authority": {"type": "array"}, "Additional": {"type": "array"}},
    Status=COUNT,
    Question=listing(obj(Name=TEXT, Qtype=COUNT, Qclass=COUNT)),
    TC=YES,
    RD=YES,
    RA=YES,
    AD=YES,
    CD=YES,
    Answer=listing(obj(name=TEXT, type=COUNT, TTL=COUNT, data=TEXT)),
)
EXPLANATION = obj(
    metadata=METADATA,
    rule=TEXT,
    index={"type": "integer", "minimum": -1},
    why=TEXT,
    resolution=TEXT,
    addresses=TEXTS,
    chain=TEXTS,
    way=TEXT,
    passed=TEXTS,
)
STATUS = obj(
    version=TEXT,
    started=TIME,
    uptime=NUMBER,
    config=TEXT,
    home=TEXT,
    mode={"enum": ["rule", "global", "direct"]},
    memory=COUNT,
    connections=COUNT,
    uploadTotal=COUNT,
    downloadTotal=COUNT,
    rules=COUNT,
    listeners={"type": "array"},
    modules={"type": "object"},
)
CONFIGS = {
    "type": "object",
    "properties": {"port": COUNT, "mixed-port": COUNT, "allow-lan": YES, "mode": TEXT, "log-level": TEXT, "ipv6": YES},
    "required": [
        *("port", "socks-port", "redir-port", "tproxy-port", "mixed-port", "allow-lan", "bind-address", "mode"),
        *("log-level", "ipv6", "tun", "interface-name", "sniffing", "authentication"),
    ],
}
DELAY = obj(delay=COUNT)
ERROR = obj(message={"type": "string", "minLength": 1})

TUNNEL = obj(url=TEXT, state=TEXT, source=TEXT, reason=TEXT, rtt={"type": ["number", "null"]}, learnt_at=NUMBER)
WAY = obj(
    name=TEXT,
    kind=TEXT,
    state=TEXT,
    rtt={"type": ["number", "null"]},
    loss=NUMBER,
    heard={"type": ["number", "null"]},
)
PEER = obj(
    peer=TEXT,
    device=TEXT,
    owner=TEXT,
    zone=TEXT,
    trust=TEXT,
    version=NUMBER,
    dialled={"type": "boolean"},
    way=TEXT,
    silent=NUMBER,
    rtt={"type": ["number", "null"]},
    why=TEXT,
    ways={"type": "array", "items": WAY},
)

READ = {
    "/": obj(hello=TEXT),
    "/version": obj(meta={"const": True}, version=TEXT),
    "/configs": CONFIGS,
    "/proxies": obj(proxies=mapping(PROXY)),
    "/proxies/a": PROXY,
    "/proxies/b%2F%C3%BC%20%F0%9F%9A%80": PROXY,
    "/proxies/a/delay?url=https://probe.example/204&timeout=1000&expected=200/204-299": DELAY,
    "/group": obj(proxies=listing(PROXY)),
    "/group/auto": PROXY,
    "/group/auto/delay?url=https://probe.example/204&timeout=1000": mapping(COUNT),
    "/providers/proxies": obj(providers=mapping(PROXY_PROVIDER)),
    "/providers/proxies/sub": PROXY_PROVIDER,
    "/providers/proxies/sub/a": PROXY,
    "/providers/proxies/sub/a/healthcheck?url=https://probe.example/204&timeout=1000": DELAY,
    "/providers/rules": obj(providers=mapping(RULE_PROVIDER)),
    "/rules": obj(rules=listing(RULE)),
    "/connections": CONNECTIONS,
    "/dns/query?name=www.example.com&type=a": DNS,
    "/storage/zashboard": {"type": "null"},
    "/cyfs/tunnels": obj(tunnels=listing(TUNNEL)),
    "/cyfs/peers": obj(peers=listing(PEER)),
    "/cyfs/status": STATUS,
    "/cyfs/explain?host=www.example.com&port=443&network=udp&from=192.0.2.9&process=curl": EXPLANATION,
}


@pytest.mark.parametrize("path", READ)
async def test_what_is_read_has_its_shape(house: House, path: str) -> None:
    for answer in (await house.unix(path), await house.tcp(path)):
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/json"
        jsonschema.validate(answer.json, READ[path])


async def test_a_ping_tells_all_ways_of_a_peer_that_has_several(house: House) -> None:
    words = ("-X", "POST", "-H", "content-type: application/json", "-d", '{"peer": "far.example"}')
    answer = await house.unix("/cyfs/ping", *words)
    assert answer.status == 200, answer.body
    jsonschema.validate(answer.json, PEER)
    assert [(way["state"], way["rtt"]) for way in answer.json["ways"]] == [("in use", 21.5), ("never answered", None)]


ACTS = [
    ("PUT", "/proxies/pick", '{"name":"DIRECT"}', ("select", "pick", "DIRECT")),
    ("DELETE", "/proxies/auto", "", ("unfix", "auto")),
    ("PUT", "/providers/proxies/sub", "", ("update", "sub")),
    ("GET", "/providers/proxies/sub/healthcheck", "", ("check", "sub")),
    ("PUT", "/configs?force=true", '{"payload":"mode: rule"}', ("reload", "", "mode: rule")),
    ("PATCH", "/configs", '{"mode":"global"}', ("patch", {"mode": "global"})),
    ("DELETE", "/connections", "", "close all"),
    ("DELETE", "/connections/abc", "", ("close", "abc")),
    ("POST", "/cache/dns/flush", "", "flush dns"),
    ("POST", "/cache/fakeip/flush", "", "flush fake-ip"),
    ("POST", "/cyfs/stop", "", "stop"),
]


@pytest.mark.parametrize(("method", "path", "body", "told"), ACTS)
async def test_an_act_is_carried_out_and_answered_with_204_and_nothing(
    house: House, method: str, path: str, body: str, told: object
) -> None:
    answer = await house.tcp(path, "-X", method, *(("-d", body) if body else ()))
    assert (answer.status, answer.body) == (204, b"")
    assert house.gateway.told == [told]


async def test_rules_are_switched_by_index(house: House) -> None:
    assert (await house.unix("/rules/disable", "-X", "PATCH", "-d", '{"0":true,"2":false}')).status == 204
    assert house.gateway.rules.changes == [{0: True, 2: False}]


FAULTS = [
    ("GET", "/nowhere", "", 404),
    ("GET", "/debug/pprof", "", 404),
    ("POST", "/version", "", 405),
    ("GET", "/proxies/ghost", "", 404),
    ("PUT", "/proxies/ghost", '{"name":"a"}', 404),
    ("PUT", "/proxies/a", '{"name":"a"}', 400),
    ("PUT", "/proxies/auto", '{"name":"a"}', 400),
    ("PUT", "/proxies/pick", '{"name":"ghost"}', 400),
    ("PUT", "/proxies/pick", "{", 400),
    ("PUT", "/proxies/pick", "[]", 400),
    ("DELETE", "/proxies/pick", "", 400),
    ("GET", "/proxies/a/delay?url=https://slow.example", "", 504),
    ("GET", "/proxies/a/delay?url=https://down.example", "", 503),
    ("GET", "/proxies/a/delay?url=file:///etc/passwd", "", 400),
    ("GET", "/proxies/a/delay?timeout=soon", "", 400),
    ("GET", "/proxies/a/delay?expected=teapot", "", 400),
    ("GET", "/group/a", "", 404),
    ("GET", "/group/auto/delay?url=https://slow.example", "", 504),
    ("GET", "/providers/proxies/ghost", "", 404),
    ("PUT", "/providers/proxies/ghost", "", 404),
    ("GET", "/providers/proxies/sub/ghost", "", 404),
    ("PUT", "/providers/rules/ghost", "", 404),
    ("PUT", "/providers/rules/ads", "", 503),
    ("PATCH", "/rules/disable", '{"zero":true}', 400),
    ("PATCH", "/rules/disable", '{"0":"yes"}', 400),
    ("PUT", "/configs", '{"payload":"broken"}', 400),
    ("PUT", "/configs", '{"payload":"puzzling"}', 500),
    ("POST", "/cyfs/reload", '{"payload":"puzzling"}', 500),
    ("PUT", "/configs", '{"path":"relative.yaml"}', 400),
    ("PUT", "/configs", '{"path":"/etc/passwd"}', 400),
    ("PATCH", "/configs", '{"mode":"wrong"}', 400),
    ("POST", "/configs/geo", "", 501),
    ("POST", "/upgrade", "", 501),
    ("POST", "/upgrade/geo", "", 501),
    ("POST", "/upgrade/ui", "", 501),
    ("POST", "/restart", "", 501),
    ("GET", "/logs?level=chatty", "", 400),
    ("GET", "/dns/query?name=a.example&type=nonsense", "", 400),
    ("GET", "/dns/query?name=away.example", "", 500),
    ("GET", "/dns/query", "", 400),
    ("POST", "/cyfs/probe", "{}", 400),
    ("POST", "/cyfs/ping", "{}", 400),
    ("POST", "/cyfs/ping", '{"peer": "nobody"}', 400),
    ("POST", "/cyfs/ping", '{"peer": "stranger"}', 403),
    ("POST", "/cyfs/ping", '{"peer": "away"}', 504),
    ("POST", "/cyfs/probe", '{"url": "nowhere"}', 400),
    ("GET", "/cyfs/explain?host=a.example&port=0", "", 400),
    ("GET", "/cyfs/explain?host=a.example&from=nobody", "", 400),
    ("POST", "/cyfs/modules/ghost/ping", "", 404),
    ("POST", "/cyfs/modules/health/forbidden", "", 403),
    ("PUT", "/storage/zashboard", "{not json", 400),
    ("PUT", "/storage/zashboard", "NaN", 400),
    ("PUT", "/storage/zashboard", "[" * 200_000, 400),
    ("PUT", "/storage/..%2F..%2Fidentity", "{}", 400),
    ("GET", "/storage/.hidden", "", 400),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), FAULTS)
async def test_a_fault_is_a_status_and_a_message(house: House, method: str, path: str, body: str, status: int) -> None:
    (house.home / "body").write_text(body)
    answer = await house.tcp(path, "-X", method, *(("-d", f"@{house.home}/body") if body else ()))
    assert answer.status == status
    jsonschema.validate(answer.json, ERROR)
    assert house.gateway.told in ([], [("unfix", "auto")]) or house.gateway.told[0][0] == "delay"


async def test_a_path_at_home_is_loaded(house: House) -> None:
    path = house.home / "other.yaml"
    path.write_text("mode: direct")
    assert (await house.unix("/configs", "-X", "PUT", "-d", json.dumps({"path": str(path)}))).status == 204
    assert house.gateway.told == [("reload", str(path), "")]


async def test_our_own_reload_tells_the_warnings(house: House) -> None:
    answer = await house.unix("/cyfs/reload", "-d", "{}")
    assert answer.json == {
        "warnings": [{"severity": "warning", "path": "/colour", "line": 2, "column": 1, "message": "unknown key"}]
    }


async def test_a_module_method_gets_its_body(house: House) -> None:
    assert (await house.unix("/cyfs/modules/health/ping", "-d", '{"n":1}')).json == {"pong": {"n": 1}}


async def test_stored_settings_come_back_and_survive_on_disk(house: House) -> None:
    assert (await house.tcp("/storage/zashboard", "-X", "PUT", "-d", '{"theme":"dark"}')).status == 204
    assert (await house.tcp("/storage/zashboard")).json == {"theme": "dark"}
    [file] = (house.home / "storage").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (await house.tcp("/storage/zashboard", "-X", "DELETE")).status == 204
    assert (await house.tcp("/storage/zashboard")).json is None


async def test_the_store_holds_a_bounded_number_of_keys(house: House) -> None:
    (house.home / "storage").mkdir()
    for number in range(64):
        (house.home / "storage" / f"k{number}.json").write_text("1")
    assert (await house.tcp("/storage/one-more", "-X", "PUT", "-d", "1")).status == 507
    assert (await house.tcp("/storage/k5", "-X", "PUT", "-d", "2")).status == 204
    assert (await house.tcp("/storage/k5")).json == 2


async def test_ten_thousand_connections_are_listed_whole(house: House) -> None:
    house.gateway.live = [connection(number) for number in range(10_000)]
    listed = (await house.unix("/connections")).json["connections"]
    assert [entry["id"] for entry in listed] == [view.id for view in house.gateway.live]


async def test_metrics_are_prometheus_text(house: House) -> None:
    answer = await house.tcp("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'cyfs_outbound_bytes_total{outbound="a",type="Socks5",direction="down"} 20\n' in answer.body.decode()
    assert b"\ncyfs_health_pings_total 3\n" in answer.body, "what modules measured stands there, too"
    assert (await house.tcp("/metrics", secret="")).status == 401


async def test_head_tells_the_length_and_sends_nothing(house: House) -> None:
    answer = await house.tcp("/version", "-I")
    assert int(answer.headers["content-length"]) == len((await house.tcp("/version")).body)


async def test_one_connection_serves_many_requests(house: House) -> None:
    ask = f"GET /version HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\nAuthorization: Bearer {SECRET}\r\n"
    heard = await house.raw((ask + "\r\n").encode() * 3 + (ask + "Connection: close\r\n\r\n").encode())
    assert heard.count(b"HTTP/1.1 200") == 4


async def test_tls_serves_the_same(house: House) -> None:
    url = f"https://localhost:{house.tls_port}/version"
    answer = await curl("--cacert", house.ca, url, "-H", f"Authorization: Bearer {SECRET}")
    assert answer.json["meta"] is True
    assert (await curl("--cacert", house.ca, url)).status == 401


def test_who_sent_a_flow_is_told_of_those_who_are_known() -> None:
    flow = Flow("tcp", "Rtcp", "", 0, "", "127.0.0.1", 80)
    assert not [key for key in metadata_json(flow) if key.startswith("source") and key.endswith(("DID", "Trust"))]
    flow.identity = Identity(did="did:web:a.example", host="a.example", owner="did:dev:x", trust=Trust.OWNER_SIGNED)
    said = metadata_json(flow)
    told = {
        "sourceDID": "did:web:a.example",
        "sourceOwner": "did:dev:x",
        "sourceZone": "",
        "sourceTrust": "owner-signed",
    }
    assert said.items() >= told.items()
