"""What a service finds in its environment, and what of it its command may name.

The names are upstream's (its environment contract) where it has one that makes sense here; secrets are in files.

| name | value |
|---|---|
| ``PORT_<NAME>`` | the number of the page's port; ``BUCKYOS_SERVICE_PORT``: of the first |
| ``VOLUME_<NAME>`` | where the volume is; ``BUCKYOS_DATA_DIR``: the first |
| ``BUCKYOS_PKG_DIR`` | where the package is |
| ``BUCKYOS_APP_ID`` | the name of the service |
| ``CYFS_TOKEN_FILE`` | the file with the service's own token, if it was given one |
| ``app_instance_config`` | JSON: service, node, version, ports and volumes |

What the page sets beside these is passed on; these it cannot set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cyfs_ns.identity.strictjson import Json, write_json
from node.run.runner import Order, RunFault
from zone.scheduler.service import Pairs

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMED: Final = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def environment(order: Order, node: str, package: str, volumes: Mapping[str, str], token: str = "") -> Pairs:
    """All variables, sorted.  ``package``, ``volumes`` and ``token`` are paths as the service sees them."""
    ports: dict[str, Json] = dict(order.ports)
    config: dict[str, Json] = {
        "service": order.service,
        "node": node,
        "version": order.work.version,
        "ports": ports,
        "volumes": dict(volumes),
    }
    ours = {
        "BUCKYOS_APP_ID": order.service,
        "BUCKYOS_PKG_DIR": package,
        "app_instance_config": write_json(config).decode(),
    }
    ours |= {f"PORT_{_upper(name)}": str(number) for name, number in order.ports}
    ours |= {f"VOLUME_{_upper(name)}": path for name, path in volumes.items()}
    if order.ports:
        ours["BUCKYOS_SERVICE_PORT"] = str(order.ports[0][1])
    if volumes:
        ours["BUCKYOS_DATA_DIR"] = next(iter(volumes.values()))
    if token:
        ours["CYFS_TOKEN_FILE"] = token
    return tuple(sorted(({"PATH": PATH, "LANG": "C.UTF-8"} | dict(order.work.env) | ours).items()))


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


def expanded(words: tuple[str, ...], env: Pairs) -> tuple[str, ...]:
    """``words`` with ``$NAME`` and ``${NAME}`` as ``env`` has them; ``$$`` is one ``$``, as is any other.

    Raises ``RunFault`` for a name that is not there.
    """
    known = dict(env)

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        if name not in known:
            raise RunFault(f"the command names ${name}, which is not in the environment", lasting=True)
        return known[name]

    return tuple(_NAMED.sub(value, word) for word in words)
