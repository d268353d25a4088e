"""How many answers a neighbourhood may get a second: a name server must not be a stranger's megaphone.

Over UDP anybody can ask in somebody else's name, and a small question brings a large answer.  So answers are counted by
the *network* they go to (an attacker chooses the victim's neighbours freely): each has a bucket of one second's worth
of answers that fills up steadily.  Over that, most questions bring silence, and every ``slip``-th a truncated reply,
by which a real client learns to come over TCP, where addresses cannot be forged (Vixie and Schryver, "Response Rate
Limiting in DNS", 2012).

Answers are *leased* in small lots, so that the hot path only counts down.  Networks are held in two generations: when
the younger is full, the elder is forgotten and the younger becomes the elder.  A forgotten network starts with a full
bucket, so a flood from everywhere costs memory no more than ``MAX_NETWORKS`` buckets.
"""

from __future__ import annotations

MAX_NETWORKS = 8192
_MAPPED = b"\0" * 10 + b"\xff\xff"


class RateLimit:
    """Buckets of ``per_second`` answers for each /24 of IPv4 and /56 of IPv6.

    ``slip``: of the questions over the limit, each how-manieth is answered truncated; 0: none.
    """

    __slots__ = ("_elder", "_lot", "_young", "per_second", "slip")

    def __init__(self, per_second: int, *, slip: int = 2) -> None:
        self.per_second = per_second
        self.slip = slip
        self._lot = max(1, per_second // 16)
        self._young: dict[bytes, _Bucket] = {}
        self._elder: dict[bytes, _Bucket] = {}

    def lease(self, address: bytes, second: int, most: int | None = None) -> int:
        """How many answers may now go to ``address`` (4 or 16 octets) before asking again; 0: over the limit."""
        bucket = self._bucket(address, second)
        if bucket.second < second:
            bucket.left = min(self.per_second, bucket.left + (second - bucket.second) * self.per_second)
            bucket.second = second
        lot = min(self._lot if most is None else most, bucket.left)
        bucket.left -= lot
        return lot

    def slips(self, address: bytes, second: int) -> bool:
        """Whether this question over the limit is answered with a truncated reply rather than with silence."""
        bucket = self._bucket(address, second)
        bucket.over += 1
        return self.slip > 0 and bucket.over % self.slip == 0

    def __len__(self) -> int:
        return len(self._young) + len(self._elder)

    def _bucket(self, address: bytes, second: int) -> _Bucket:
        network = _network(address)
        bucket = self._young.get(network)
        if bucket is None:
            bucket = self._elder.pop(network, None) or _Bucket(second, self.per_second)
            if len(self._young) >= MAX_NETWORKS // 2:
                self._elder, self._young = self._young, {}
            self._young[network] = bucket
        return bucket


class _Bucket:
    __slots__ = ("left", "over", "second")

    def __init__(self, second: int, left: int) -> None:
        self.second = second
        self.left = left
        self.over = 0


def _network(address: bytes) -> bytes:
    if len(address) == 16:
        if address.startswith(_MAPPED):
            return address[12:15]
        return address[:7]
    return address[:3]
