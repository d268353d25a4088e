"""What may leave the OODs of a round: the same decisions, without the values of environments, which are secrets often.

Each value becomes another, the same wherever it stands in one observation, and without meaning outside of it.  So what
was the same version is the same version still, and what was another is another; the names of versions, which are made
from all that a work says, are others then, in the memory of what was taken back too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from cyfs_ns.config.source import BadYaml, Map, tree_of
from cyfs_ns.config.written import Reader, Section
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_json, write_json
from zone.scheduler.service import read_work
from zone.scheduler.snapshot import Observation

_CLOSED: Final = '"closed"'
"""Instead of a value of a service that cannot be read, and might hold anything; it is as unreadable."""


def redacted(observed: Observation) -> Observation:
    """``observed`` as others may see it.  Pages whose size is what is wrong with them may do without their values."""
    entries = dict(observed.entries)
    opened: dict[str, Json] = {}
    for key, (revision, text) in observed.entries.items():
        if key.startswith("nodes/") and "/config/" not in key:
            continue
        if key.startswith(("nodes/", "services/")) and not key.endswith("/info") and "/instances/" not in key:
            try:
                opened[key] = read_json(text, key)
            except BadWire:
                entries[key] = revision, _CLOSED
    words: dict[str, str] = {}
    versions: dict[str, str] = {}
    for work in (work for plain in opened.values() for work in _works(plain)):
        before = _version(work)
        work["env"] = _hidden(work["env"], words)
        if before is not None:
            versions[before] = _version(work) or ""
    for key, plain in opened.items():
        failed = plain.get("failed") if isinstance(plain, dict) else None
        if isinstance(failed, dict) and (version := failed.get("version")) in versions:
            failed["version"] = versions[str(version)]
        entries[key] = observed.entries[key][0], write_json(plain).decode()
    return replace(observed, entries=entries)


def without_environments(plain: Json) -> Json:
    """A value of the store, changed in place, with its environments' values hidden."""
    words: dict[str, str] = {}
    for work in _works(plain):
        work["env"] = _hidden(work["env"], words)
    return plain


def _works(plain: Json) -> Iterator[dict[str, Json]]:
    """The places of a page, an item or a placement in which an environment stands."""
    if isinstance(plain, dict):
        for place in (plain, plain.get("work"), plain.get("good")):
            if isinstance(place, dict) and "env" in place:
                yield place


def _hidden(environment: Json, words: dict[str, str]) -> Json:
    """What is no environment stays none; its kind is all that is wrong with it."""
    if isinstance(environment, dict):
        return {name: _hidden(said, words) for name, said in environment.items()}
    if isinstance(environment, list):
        return []
    return words.setdefault(write_json(environment).decode(), f"hidden-{len(words)}")


def _version(work: Mapping[str, Json]) -> str | None:
    """None: it is no work that could be read."""
    try:
        tree = tree_of(dict(work))
    except BadYaml:
        return None
    if not isinstance(tree, Map):
        return None
    section = Section(Reader(), tree, "")
    read = read_work(section)
    return None if section.reader.errors else read.version
