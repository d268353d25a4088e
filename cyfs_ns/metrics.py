"""Prometheus' text format (version 0.0.4), and what a name server says in it.

Label values come from configurations and strangers: they are escaped as the format wants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Metric:
    """One family: its samples are (labels, value) pairs."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def render(metrics: Iterable[Metric]) -> str:
    """The families as text; one without samples is left out."""
    return "".join(line + "\n" for metric in metrics if metric.samples for line in _lines(metric))


def single(name: str, kind: Literal["counter", "gauge"], help: str, value: float) -> Metric:
    """A family of one sample without labels."""
    return Metric(name, kind, help, (({}, value),))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in metric.samples:
        inside = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
        yield f"{metric.name}{{{inside}}} {value}" if inside else f"{metric.name} {value}"
