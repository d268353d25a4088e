"""Geo databases from the home directory: opened when a rule first needs them, then kept mapped.

Places go by an mmdb file (``geoip.metadb``, ``Country.mmdb``, ``geoip.db``), or by ``GeoIP.dat`` in ``geodata-mode``;
autonomous systems by ``GeoLite2-ASN.mmdb`` or ``ASN.mmdb``; GEOSITE by ``GeoSite.dat``.  Case in file names does not
count, as in mihomo.  A file that is not there is downloaded once (:func:`download`); from then on it is the owner's,
who replaces it and reloads.  How an mmdb file writes a country is told by its ``database_type``: MaxMind's record, a
bare code (sing-geoip), or a code or list of codes (Meta-geoip0).
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import maxminddb
import trio

from cyfs_gateway.config.model import GeoConfig
from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Unreachable
from cyfs_ns.geodata import DatFile, country_set, site_set
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.http import Response
from cyfs_ns.sets import CidrSet, HostSet

_COUNTRY_FILES = ("geoip.metadb", "Country.mmdb", "geoip.db", "GeoLite2-Country.mmdb")
_ASN_FILES = ("GeoLite2-ASN.mmdb", "ASN.mmdb")
_REMEMBERED = 8192  # addresses whose place is kept: traffic comes back to the same few

_SIZE_MOST = 128 << 20
_RELEASES = "https://github.com/MetaCubeX/meta-rules-dat/releases/download/latest/"

_T = TypeVar("_T")

_log = logging.getLogger("cyfs.geo")


class MissingGeo(ConfigFault):
    """A rule needs a file that is not there; ``name`` is what it should be called."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


async def download(name: str, home: Path, config: GeoConfig, fetch: Callable[..., Awaitable[Response]]) -> None:
    """Get the file ``name`` from where the configuration says, else from where mihomo has it.  Raises ``ConfigFault``.

    ``fetch(url, max_bytes=)``.  What cannot be read is not kept.
    """
    url = {
        "geoip.metadb": config.mmdb_url or _RELEASES + "geoip.metadb",
        "GeoIP.dat": config.geoip_url or _RELEASES + "geoip.dat",
        "GeoSite.dat": config.geosite_url or _RELEASES + "geosite.dat",
        "GeoLite2-ASN.mmdb": config.asn_url or _RELEASES + "GeoLite2-ASN.mmdb",
    }[name]
    _log.info("downloading %s from %s", name, url)
    try:
        answer = await fetch(url, max_bytes=_SIZE_MOST)
        if answer.status != 200:
            raise Unreachable(f"status {answer.status}")
        await trio.to_thread.run_sync(_check, name, answer.body)
        await trio.to_thread.run_sync(write_atomic, home / name, answer.body)
    except (CyfsError, OSError, ValueError, maxminddb.InvalidDatabaseError) as fault:
        raise ConfigFault(f"a rule needs {name}, and {url} did not give it ({fault}): put it into {home}") from fault


def _check(name: str, body: bytes) -> None:
    if name.endswith(".dat"):
        DatFile(memoryview(body))
    else:
        maxminddb.open_database(BytesIO(body), maxminddb.MODE_FD).close()


class GeoFiles:
    """A ``Geo`` (see ``rules.index``) over the files in ``home``; ``by_code`` is Clash's ``geodata-mode``.

    Every method raises ConfigFault when its file is missing or unsound.
    """

    def __init__(self, home: Path, *, by_code: bool = False) -> None:
        self._home, self._by_code = home, by_code
        self._readers: dict[tuple[str, ...], maxminddb.Reader] = {}
        self._dats: dict[str, DatFile] = {}
        self._sites: dict[str, HostSet] = {}
        self._countries: dict[str, CidrSet] = {}
        self._country = lru_cache(_REMEMBERED)(self._look_up_country)
        self._asn = lru_cache(_REMEMBERED)(self._look_up_asn)

    def country(self, ip: str) -> Sequence[str]:
        """Lower-case codes of the place of ``ip``, most often one or none."""
        return self._country(ip)

    def asn(self, ip: str) -> str:
        """The autonomous system's number as text, empty when unknown."""
        return self._asn(ip)

    def country_set(self, code: str) -> CidrSet | None:
        """All addresses of ``code`` in geodata mode, else None; each code is read once."""
        if not self._by_code:
            return None
        if code not in self._countries:
            self._countries[code] = self._from_dat("GeoIP.dat", lambda file: country_set(file, code))
        return self._countries[code]

    def site(self, category: str) -> HostSet:
        """The names of a GEOSITE category; each is read once."""
        if category not in self._sites:
            self._sites[category] = self._from_dat("GeoSite.dat", lambda file: site_set(file, category))
        return self._sites[category]

    def close(self) -> None:
        """Let go of all files; sets that were read stay usable."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._dats.clear()
        self._country.cache_clear()
        self._asn.cache_clear()

    def _look_up_country(self, ip: str) -> tuple[str, ...]:
        record = self._record(_COUNTRY_FILES, ip)
        if isinstance(record, dict):
            record = record.get("country")
            record = record.get("iso_code") if isinstance(record, dict) else record
        codes = record if isinstance(record, list) else [record]
        return tuple(code.lower() for code in codes if isinstance(code, str) and code)

    def _look_up_asn(self, ip: str) -> str:
        record = self._record(_ASN_FILES, ip)
        if not isinstance(record, dict):
            return ""
        number = record.get("autonomous_system_number") or record.get("asn") or ""
        return str(number).upper().removeprefix("AS")

    def _record(self, names: tuple[str, ...], ip: str) -> Any:
        reader = self._readers.get(names) or self._open(names)
        try:
            return reader.get(ip)
        except (
            ValueError,
            maxminddb.InvalidDatabaseError,
        ):  # no address, an IPv6 one in an IPv4 file, a damaged record
            return None

    def _open(self, names: tuple[str, ...]) -> maxminddb.Reader:
        path = self._find(names)
        try:
            reader = maxminddb.open_database(path)
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as fault:
            raise ConfigFault(f"{path} is no readable mmdb database ({fault}): download it again") from fault
        self._readers[names] = reader
        return reader

    def _from_dat(self, name: str, read: Callable[[DatFile], _T]) -> _T:
        path = self._find((name,))
        try:
            if name not in self._dats:
                with path.open("rb") as file:
                    self._dats[name] = DatFile(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
            return read(self._dats[name])
        except (OSError, ValueError, BadWire) as fault:  # ValueError: an empty file cannot be mapped
            raise ConfigFault(f"{path} is no readable geo data file ({fault}): download it again") from fault

    def _find(self, names: tuple[str, ...]) -> Path:
        try:
            present = {path.name.lower(): path for path in self._home.iterdir()}
        except OSError:
            present = {}
        for name in names:
            if name.lower() in present:
                return present[name.lower()]
        raise MissingGeo(f"a rule needs geo data: put {' or '.join(names)} into {self._home}", names[0])
