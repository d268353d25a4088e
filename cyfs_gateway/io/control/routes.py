"""What every path of the API does: the table first, then one short handler for each line.

The Clash part answers as mihomo does, in shape and in status.  Ours lives under ``/cyfs/``.  Absent on purpose:
``/debug`` (a profiler is no remote feature), and everything by which a caller could make the gateway fetch code or
run a program: upgrades, geo downloads and restarts answer 501 and say who does that instead.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import trio

from cyfs_gateway.config.view import clash_configs_view
from cyfs_gateway.control import shapes
from cyfs_gateway.io.control import streams
from cyfs_gateway.io.control.files import MOST_VALUE, Storage, ui_file
from cyfs_gateway.metrics import gateway_metrics
from cyfs_ns.control.router import NotFound, Route, Router
from cyfs_ns.errors import BadWire, ConfigFault, Misuse, Refused, Unreachable
from cyfs_ns.io.control import conversation
from cyfs_ns.io.control.conversation import DONE, Feed, Reply, Site, json_reply
from cyfs_ns.io.control.identifiers import PATTERN, identifier
from cyfs_ns.io.control.wire import Headers, HttpFault, json_bytes, json_value
from cyfs_ns.message import to_clash_json
from cyfs_ns.metrics import CONTENT_TYPE, render

if TYPE_CHECKING:
    from cyfs_gateway.facade import Gateway, ProxyView

T = TypeVar("T")

_DEFAULT_TEST_URL = "https://www.gstatic.com/generate_204"
_DEFAULT_TEST_MS = 5000
_LONGEST_TEST_MS = 60_000
_SLICE = 64
_CONFIG_LIMIT = 4 << 20
_MISSING = "Resource not found"
_NO_UPGRADE = "upgrades come from the package that installed this program"
_NO_GEO = "geo databases are local files here: put new ones into the home directory and reload"
_NO_RESTART = "a service manager restarts this program; PUT /configs applies a configuration without a restart"
_UI_HEADERS: Headers = (
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


@dataclass(frozen=True, slots=True)
class Api:
    """What the handlers share."""

    gateway: Gateway
    ui: Path | None = None
    storing: trio.Lock = field(default_factory=trio.Lock)

    @property
    def storage(self) -> Storage:
        return Storage(Path(self.gateway.config.home, "storage"))


Call: TypeAlias = conversation.Call[Api]
Handler: TypeAlias = conversation.Handler[Api]


def site_of(api: Api) -> Site[Api]:
    """The whole API, to be served."""

    def is_public(segments: tuple[str, ...], accept: str) -> bool:
        # Browsers cannot send a secret when they navigate to the dashboard, and its pages hold none.
        return api.ui is not None and (segments[0] == "ui" or (segments == ("",) and "text/html" in accept))

    return Site(api, make_router(), is_public)


def make_router() -> Router[Handler]:
    """The table.  ``/configs`` takes a larger body: the payload is a whole configuration."""
    return Router(
        [
            Route("GET", "/", _hello),
            Route("GET", "/version", _version),
            Route("GET", "/logs", _logs),
            Route("GET", "/traffic", _traffic),
            Route("GET", "/memory", _memory),
            Route("GET", "/configs", _configs),
            Route("PUT", "/configs", _put_configs, _CONFIG_LIMIT),
            Route("PATCH", "/configs", _patch_configs),
            Route("POST", "/configs/geo", _not_here(_NO_GEO)),
            Route("POST", "/upgrade", _not_here(_NO_UPGRADE)),
            Route("POST", "/upgrade/ui", _not_here(_NO_UPGRADE)),
            Route("POST", "/upgrade/geo", _not_here(_NO_GEO)),
            Route("POST", "/restart", _not_here(_NO_RESTART)),
            Route("GET", "/proxies", _proxies),
            Route("GET", "/proxies/{name}", _proxy),
            Route("PUT", "/proxies/{name}", _select),
            Route("DELETE", "/proxies/{name}", _unfix),
            Route("GET", "/proxies/{name}/delay", _delay),
            Route("GET", "/group", _groups),
            Route("GET", "/group/{name}", _group),
            Route("GET", "/group/{name}/delay", _group_delay),
            Route("GET", "/providers/proxies", _proxy_providers),
            Route("GET", "/providers/proxies/{name}", _proxy_provider),
            Route("PUT", "/providers/proxies/{name}", _update_proxy_provider),
            Route("GET", "/providers/proxies/{name}/healthcheck", _check_provider),
            Route("GET", "/providers/proxies/{name}/{proxy}", _provider_proxy),
            Route("GET", "/providers/proxies/{name}/{proxy}/healthcheck", _provider_proxy_delay),
            Route("GET", "/providers/rules", _rule_providers),
            Route("PUT", "/providers/rules/{name}", _update_rule_provider),
            Route("GET", "/rules", _rules),
            Route("PATCH", "/rules/disable", _disable_rules),
            Route("GET", "/connections", _connections),
            Route("DELETE", "/connections", _close_connections),
            Route("DELETE", "/connections/{id}", _close_connection),
            Route("GET", "/dns/query", _dns_query),
            Route("GET", "/dns/{path...}", _name_server),
            Route("POST", "/dns/{path...}", _name_server),
            Route("DELETE", "/dns/{path...}", _name_server),
            Route("POST", "/cache/dns/flush", _flush_dns),
            Route("POST", "/cache/fakeip/flush", _flush_fake_ip),
            Route("GET", "/storage/{key}", _get_storage),
            Route("PUT", "/storage/{key}", _put_storage, MOST_VALUE),
            Route("DELETE", "/storage/{key}", _delete_storage),
            Route("GET", "/metrics", _metrics),
            Route("GET", "/ui", _ui_redirect),
            Route("GET", "/ui/{path...}", _ui),
            Route("GET", "/cyfs/status", _status),
            Route("GET", "/cyfs/explain", _explain),
            Route("GET", "/cyfs/tunnels", _tunnels),
            Route("GET", "/cyfs/peers", _peers),
            Route("POST", "/cyfs/memberships", _look_at_sns),
            Route("POST", "/cyfs/ping", _ping),
            Route("POST", "/cyfs/streams", streams.open_stream),
            Route("POST", "/cyfs/receiver", streams.receive),
            Route("POST", "/cyfs/receiver/{id}", streams.claim),
            Route("DELETE", "/cyfs/peers/{peer}", _forget_peer),
            Route("POST", "/cyfs/probe", _probe),
            Route("POST", "/cyfs/reload", _reload, _CONFIG_LIMIT),
            Route("POST", "/cyfs/stop", _stop),
            Route("POST", "/cyfs/modules/{module}/{method}", _module),
            Route("GET", PATTERN, _identifier),
        ]
    )


# --- the house -----------------------------------------------------------------------------------------------------


async def _hello(call: Call) -> Reply:
    if call.app.ui is not None and "text/html" in call.accept:
        return _redirect("/ui/")
    return json_reply({"hello": "cyfs-gateway"})


async def _version(call: Call) -> Reply:
    return json_reply(shapes.version_json())


async def _logs(call: Call) -> Feed:
    level = call.query.get("level", "info")
    if level not in shapes.LEVELS:
        raise HttpFault(400, "Body invalid")
    structured = call.query.get("format") == "structured"

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(call.app.gateway.logs(level)) as records:  # type: ignore[type-var]
            async for line in records:
                yield json_bytes(shapes.log_json(line, structured=structured))

    return Feed(lines())


async def _traffic(call: Call) -> Feed:
    async def samples() -> AsyncIterator[bytes]:
        before = call.app.gateway.totals()
        async for _ in _ticks(1.0):
            now = call.app.gateway.totals()
            speeds = {"up": now[0] - before[0], "down": now[1] - before[1]}
            yield json_bytes({**speeds, "upTotal": now[0], "downTotal": now[1]})
            before = now

    return Feed(samples())


async def _memory(call: Call) -> Feed:
    async def samples() -> AsyncIterator[bytes]:
        yield json_bytes({"inuse": 0, "oslimit": 0})
        async for _ in _ticks(1.0):
            yield json_bytes({"inuse": call.app.gateway.memory(), "oslimit": 0})

    return Feed(samples())


async def _metrics(call: Call) -> Reply:
    gateway = call.app.gateway
    metrics = gateway_metrics(gateway, time.time())
    if gateway.name_server is not None:
        from cyfs_ns.io.views import metrics_of

        metrics += metrics_of(gateway.name_server, gateway.started)
    metrics += gateway.module_metrics()
    text = render(metrics)
    return Reply(200, text.encode("utf-8", "replace"), (("Content-Type", CONTENT_TYPE),))


async def _status(call: Call) -> Reply:
    return json_reply(shapes.status_json(call.app.gateway, time.time()))


async def _stop(call: Call) -> Reply:
    call.app.gateway.stop()
    return DONE


async def _module(call: Call) -> Reply:
    body = call.json() if call.body else {}
    try:
        with _known():
            return json_reply(dict(await call.app.gateway.control(call.name("module"), call.name("method"), body)))
    except BadWire as fault:
        raise HttpFault(400, str(fault)) from None
    except Unreachable as fault:
        raise HttpFault(503, str(fault)) from None


# --- configuration -------------------------------------------------------------------------------------------------


async def _configs(call: Call) -> Reply:
    return json_reply(dict(clash_configs_view(call.app.gateway.config)))


async def _put_configs(call: Call) -> Reply:
    await _load(call)
    return DONE


async def _reload(call: Call) -> Reply:
    return json_reply({"warnings": await _load(call)})


async def _patch_configs(call: Call) -> Reply:
    with _good_configuration():
        await call.app.gateway.patch(call.json())
    return DONE


async def _load(call: Call) -> list[dict[str, Any]]:
    body = call.json() if call.body else {}
    path, payload = body.get("path", ""), body.get("payload", "")
    if not isinstance(path, str) or not isinstance(payload, str):
        raise HttpFault(400, "Body invalid")
    if path and path != call.app.gateway.config_path:
        path = await trio.to_thread.run_sync(_path_at_home, path, call.app.gateway.config.home)
    with _good_configuration():
        return shapes.faults_json(await call.app.gateway.reload(path=path, payload=payload))


def _path_at_home(path: str, home: str) -> str:
    """``path`` with links resolved.  Only files of the home directory are read for others."""
    if "\0" in path or not Path(path).is_absolute():
        raise HttpFault(400, "path is not an absolute path")
    whole = Path(path).resolve()
    if not whole.is_relative_to(Path(home).resolve()):
        raise HttpFault(400, "path is not inside the home directory")
    return str(whole)


# --- ways out ------------------------------------------------------------------------------------------------------


async def _proxies(call: Call) -> Reply:
    return json_reply({"proxies": {name: shapes.proxy_json(view) for name, view in call.app.gateway.proxies().items()}})


async def _proxy(call: Call) -> Reply:
    return json_reply(shapes.proxy_json(_view_of(call)))


async def _select(call: Call) -> Reply:
    _view_of(call)
    member = call.json().get("name")
    if not isinstance(member, str):
        raise HttpFault(400, "Body invalid")
    try:
        call.app.gateway.select(call.name(), member)
    except Refused:
        raise HttpFault(400, "Must be a Selector") from None
    except KeyError:
        group = shapes.is_group(_view_of(call))
        raise HttpFault(400, "Selector update error: not found" if group else "Must be a Selector") from None
    return DONE


async def _unfix(call: Call) -> Reply:
    _view_of(call)
    try:
        call.app.gateway.unfix(call.name())
    except (Refused, KeyError):
        raise HttpFault(400, "Must be a URLTest or a Fallback") from None
    return DONE


async def _delay(call: Call) -> Reply:
    _view_of(call)
    return await _measured(call, call.name())


async def _groups(call: Call) -> Reply:
    return json_reply(
        {"proxies": [shapes.proxy_json(v) for v in call.app.gateway.proxies().values() if shapes.is_group(v)]}
    )


async def _group(call: Call) -> Reply:
    return json_reply(shapes.proxy_json(_group_of(call)))


async def _group_delay(call: Call) -> Reply:
    _group_of(call)
    url, seconds, expected = _test_of(call)
    with suppress(Refused, KeyError):
        call.app.gateway.unfix(call.name())
    with _tested():
        return json_reply(dict(await call.app.gateway.group_delay(call.name(), url, seconds, expected)))


def _view_of(call: Call) -> ProxyView:
    with _known():
        return call.app.gateway.proxies()[call.name()]


def _group_of(call: Call) -> ProxyView:
    view = _view_of(call)
    if not shapes.is_group(view):
        raise HttpFault(404, _MISSING)
    return view


async def _measured(call: Call, name: str) -> Reply:
    url, seconds, expected = _test_of(call)
    with _tested():
        return json_reply({"delay": await call.app.gateway.delay(name, url, seconds, expected)})


def _test_of(call: Call) -> tuple[str, float, str]:
    """(url, seconds, expected statuses) of a delay request."""
    url = call.query.get("url") or _DEFAULT_TEST_URL
    expected = call.query.get("expected") or "*"
    milliseconds = _number(call.query.get("timeout", str(_DEFAULT_TEST_MS)))
    try:
        whole = urlsplit(url)
        good = whole.scheme in ("http", "https") and bool(whole.hostname) and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good or milliseconds < 1 or not shapes.statuses_wanted(expected):
        raise HttpFault(400, "Body invalid")
    return url, min(milliseconds, _LONGEST_TEST_MS) / 1000, expected


# --- providers and rules -------------------------------------------------------------------------------------------


async def _proxy_providers(call: Call) -> Reply:
    return json_reply(
        {"providers": {name: dict(view.body) for name, view in call.app.gateway.proxy_providers().items()}}
    )


async def _proxy_provider(call: Call) -> Reply:
    with _known():
        return json_reply(dict(call.app.gateway.proxy_providers()[call.name()].body))


async def _update_proxy_provider(call: Call) -> Reply:
    with _known(), _fetched():
        await call.app.gateway.update_proxy_provider(call.name())
    return DONE


async def _check_provider(call: Call) -> Reply:
    with _known():
        await call.app.gateway.check_provider(call.name())
    return DONE


async def _provider_proxy(call: Call) -> Reply:
    with _known():
        return json_reply(shapes.proxy_json(call.app.gateway.provider_proxy(call.name(), call.name("proxy"))))


async def _provider_proxy_delay(call: Call) -> Reply:
    with _known():
        view = call.app.gateway.provider_proxy(call.name(), call.name("proxy"))
        return await _measured(call, view.name)


async def _rule_providers(call: Call) -> Reply:
    return json_reply(
        {"providers": {name: dict(view.body) for name, view in call.app.gateway.rule_providers().items()}}
    )


async def _update_rule_provider(call: Call) -> Reply:
    with _known(), _fetched():
        await call.app.gateway.update_rule_provider(call.name())
    return DONE


async def _rules(call: Call) -> Reply:
    return _raw(b'{"rules":[' + await _joined(call.app.gateway.rules.view(), shapes.rule_json) + b"]}")


async def _disable_rules(call: Call) -> Reply:
    try:
        call.app.gateway.rules.disable(shapes.disabled_wanted(call.json()))
    except ValueError as fault:
        raise HttpFault(400, str(fault)) from None
    return DONE


# --- connections and names -----------------------------------------------------------------------------------------


async def _connections(call: Call) -> Reply | Feed:
    if not call.websocket:
        return _raw(await _snapshot(call.app.gateway))
    interval = _number(call.query.get("interval", "1000"))

    async def snapshots() -> AsyncIterator[bytes]:
        yield await _snapshot(call.app.gateway)
        async for _ in _ticks(min(max(interval, 100), 3_600_000) / 1000):
            yield await _snapshot(call.app.gateway)

    return Feed(snapshots())


async def _snapshot(gateway: Gateway) -> bytes:
    up, down = gateway.totals()
    head = json_bytes({"downloadTotal": down, "uploadTotal": up, "memory": gateway.memory()})
    listed = await _joined(gateway.connections(), shapes.connection_json)
    return head[:-1] + b',"connections":[' + listed + b"]}"


async def _close_connections(call: Call) -> Reply:
    call.app.gateway.close_connections()
    return DONE


async def _close_connection(call: Call) -> Reply:
    call.app.gateway.close_connection(call.name("id"))
    return DONE


async def _dns_query(call: Call) -> Reply:
    name, rtype = call.query.get("name", ""), call.query.get("type") or "A"
    if not name:
        raise HttpFault(400, "name is missing")
    try:
        return json_reply(dict(to_clash_json(await call.app.gateway.dns_query(name, rtype.upper()))))
    except (ValueError, BadWire) as fault:
        raise HttpFault(400, str(fault)) from None
    except (Unreachable, Refused, TimeoutError, trio.TooSlowError) as fault:
        raise HttpFault(500, str(fault) or "timeout") from None


@cache
def _name_server_paths() -> Router[Handler]:
    # Imported when somebody asks: a gateway that serves no names does without what this needs.
    from cyfs_ns.io.control.nameserver import Served, routes

    def find(api: Api) -> Served:
        serving = api.gateway.name_server
        if serving is None:
            raise HttpFault(503, "no name server runs here: dns.enable and dns.listen in the configuration start one")
        return Served(serving, lambda: api.gateway.started)

    return Router(routes(find, "/dns"))


async def _name_server(call: Call) -> Reply | Feed:
    """What the API of ``cyfs-ns`` has at the root is here below ``/dns``."""
    path = "/dns/" + "/".join(quote(part, safe="") for part in call.found.rest)
    found = _name_server_paths().find(call.found.route.method, path)
    if isinstance(found, NotFound):
        raise HttpFault(405 if found.allowed else 404, "Method not allowed" if found.allowed else _MISSING)
    return await found.route.handler(replace(call, found=found))


async def _flush_dns(call: Call) -> Reply:
    call.app.gateway.flush_dns()
    return DONE


async def _flush_fake_ip(call: Call) -> Reply:
    call.app.gateway.flush_fake_ip()
    return DONE


async def _explain(call: Call) -> Reply:
    query = call.query
    host, network = query.get("host", ""), query.get("network", "tcp")
    port = _number(query.get("port", "443"))
    source = query.get("from", "127.0.0.1")
    try:
        ip_address(source)
    except ValueError:
        raise HttpFault(400, "from is not an address") from None
    if not host or len(host) > 255 or not 0 < port < 65536 or network not in ("tcp", "udp"):
        raise HttpFault(400, "host, port (1 to 65535) and network (tcp or udp) are wanted")
    process = query.get("process", "")
    try:
        said = await call.app.gateway.explain(host, port, network=network, source=source, process=process)
    except BadWire as fault:
        raise HttpFault(400, str(fault)) from None
    return json_reply(shapes.explanation_json(said))


async def _identifier(call: Call) -> Reply:
    return await identifier(call, call.app.gateway.show_identity)


async def _tunnels(call: Call) -> Reply:
    return json_reply({"tunnels": [shapes.tunnel_json(one) for one in call.app.gateway.tunnel_statuses()]})


async def _peers(call: Call) -> Reply:
    return json_reply({"peers": [shapes.peer_json(one) for one in call.app.gateway.peers()]})


async def _forget_peer(call: Call) -> Reply:
    with streams.reached():
        return json_reply({"closed": await call.app.gateway.forget_peer(call.name("peer"))})


async def _look_at_sns(call: Call) -> Reply:
    call.app.gateway.look_at_sns()
    return DONE


async def _ping(call: Call) -> Reply:
    peer = call.json().get("peer")
    if not isinstance(peer, str) or not 0 < len(peer) <= 512:
        raise HttpFault(400, "peer, a DID or host name, is wanted")
    with streams.reached(), trio.fail_after(_LONGEST_TEST_MS / 1000):
        return json_reply(shapes.peer_json(await call.app.gateway.ping(peer)))


async def _probe(call: Call) -> Reply:
    url = call.json().get("url")
    if not isinstance(url, str) or not 0 < len(url) <= 4096:
        raise HttpFault(400, "url, a tunnel URL, is wanted")
    try:
        return json_reply(shapes.tunnel_json(await call.app.gateway.probe(url)))
    except ConfigFault as fault:
        raise HttpFault(400, str(fault)) from None


# --- files ---------------------------------------------------------------------------------------------------------


async def _get_storage(call: Call) -> Reply:
    async with call.app.storing:
        value = await trio.to_thread.run_sync(call.app.storage.get, _key_of(call))
    return _raw(b"null" if value is None else value)


async def _put_storage(call: Call) -> Reply:
    key = _key_of(call)
    json_value(call.body)
    async with call.app.storing:
        try:
            kept = await trio.to_thread.run_sync(call.app.storage.put, key, call.body)
        except OSError as fault:
            raise HttpFault(507, f"it cannot be kept: {fault.strerror}") from None
        if not kept:
            raise HttpFault(507, "too many keys")
    return DONE


async def _delete_storage(call: Call) -> Reply:
    async with call.app.storing:
        await trio.to_thread.run_sync(call.app.storage.delete, _key_of(call))
    return DONE


def _key_of(call: Call) -> str:
    key = call.name("key")
    if not Storage.good_key(key):
        raise HttpFault(400, "a key is up to 64 letters, digits, dots, dashes and underscores")
    return key


async def _ui_redirect(call: Call) -> Reply:
    if call.app.ui is None:
        raise HttpFault(404, _MISSING)
    return _redirect("/ui/")


async def _ui(call: Call) -> Reply:
    if call.app.ui is None:
        raise HttpFault(404, _MISSING)
    shown = await trio.to_thread.run_sync(ui_file, call.app.ui, call.found.rest)
    if shown is None:
        raise HttpFault(404, _MISSING)
    return Reply(200, shown[1], (("Content-Type", shown[0]), *_UI_HEADERS))


# --- helpers -------------------------------------------------------------------------------------------------------


def _raw(body: bytes) -> Reply:
    return Reply(200, body)


def _redirect(place: str) -> Reply:
    return Reply(307, b"", (("Location", place),))


def _not_here(why: str) -> Handler:
    async def handler(call: Call) -> Reply:
        raise HttpFault(501, why)

    return handler


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HttpFault(400, "Body invalid")
    return int(text)


async def _ticks(seconds: float) -> AsyncIterator[None]:
    """One tick each ``seconds``, skipping those that a slow reader missed."""
    due = trio.current_time()
    while True:
        due = max(due + seconds, trio.current_time())
        await trio.sleep_until(due)
        yield


async def _joined(items: Iterable[T], shape: Callable[[T], object]) -> bytes:
    """The shapes of ``items``, comma-separated, made slice by slice: ten thousand must not hold up the house."""
    parts: list[bytes] = []
    slice_: list[object] = []
    for item in items:
        slice_.append(shape(item))
        if len(slice_) == _SLICE:
            parts.append(json_bytes(slice_)[1:-1])
            slice_ = []
            await trio.lowlevel.checkpoint()
    if slice_:
        parts.append(json_bytes(slice_)[1:-1])
    return b",".join(parts)


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise HttpFault(404, _MISSING) from None
    except Refused as fault:
        raise HttpFault(403, str(fault)) from None


@contextmanager
def _fetched() -> Iterator[None]:
    """mihomo answers 503 with the reason when a provider could not be refreshed."""
    try:
        yield
    except (Unreachable, BadWire, ConfigFault, TimeoutError, trio.TooSlowError, OSError) as fault:
        raise HttpFault(503, str(fault) or "timeout") from None


@contextmanager
def _tested() -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise HttpFault(404, _MISSING) from None
    except (TimeoutError, trio.TooSlowError):
        raise HttpFault(504, "Timeout") from None
    except (Unreachable, Refused):
        raise HttpFault(503, "An error occurred in the delay test") from None


@contextmanager
def _good_configuration() -> Iterator[None]:
    try:
        yield
    except (ConfigFault, Refused) as fault:
        raise HttpFault(400, str(fault)) from None
    except Misuse as fault:
        raise HttpFault(500, str(fault)) from None
