"""The metrics text: what it says, and that no label can break out of its line."""

from __future__ import annotations

import re
from pathlib import Path

from control_house import PaperGateway, leaf
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.config.model import ControlConfig
from cyfs_gateway.metrics import gateway_metrics
from cyfs_gateway.rules.table import RuleView
from cyfs_ns.metrics import Metric, render

SAMPLE = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\\\|\\"|\\n)*",?)*\})? [0-9.e+]+')


@given(st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_a_label_stays_within_its_quotes(first: str, second: str) -> None:
    text = render([Metric("m", "gauge", "Help.", (({"a": first, "b": second}, 1),))])
    assert text.startswith("# HELP m Help.\n# TYPE m gauge\nm{")
    assert SAMPLE.fullmatch(text.split("\n", 2)[2].removesuffix("\n"))


def test_what_a_gateway_says() -> None:
    gateway = PaperGateway(Path("/h"), ControlConfig(unix=""))
    gateway.ways['odd "name"'] = leaf('odd "name"')
    text = render(gateway_metrics(gateway, gateway.started + 5))  # type: ignore[arg-type]
    assert all(SAMPLE.fullmatch(line) for line in text.splitlines() if not line.startswith("#"))
    for line in (
        "cyfs_uptime_seconds 5.0",
        "cyfs_memory_resident_bytes 50000000",
        'cyfs_connections{network="tcp"} 2',
        'cyfs_connections{network="udp"} 0',
        'cyfs_bytes_total{direction="down"} 9',
        'cyfs_outbound_bytes_total{outbound="odd \\"name\\"",type="Socks5",direction="up"} 10',
        'cyfs_rule_hits_total{index="0",type="DomainSuffix",payload="example.com",proxy="auto"} 3',
        "cyfs_rules 3",
    ):
        assert line in text.splitlines()


def test_only_the_busiest_rules_are_listed() -> None:
    gateway = PaperGateway(Path("/h"), ControlConfig(unix=""))
    gateway.rules.rules = [RuleView(n, "Domain", f"h{n}", "p", -1, False, n, 1.0, 0, 0.0) for n in range(2000)]
    lines = [x for x in render(gateway_metrics(gateway, 0)).splitlines() if x.startswith("cyfs_rule_hits_total{")]  # type: ignore[arg-type]
    assert len(lines) == 500
    assert lines[0].endswith(" 1999")
