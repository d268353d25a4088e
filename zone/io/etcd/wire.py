"""What is taken of the ``etcd3`` package: its generated messages, on channels of our own.

The messages are those of etcd 3.3.  What 3.4 added are fields that they carry as unknown ones, and calls whose messages
have the shape of older ones; both stand here.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import grpc

with warnings.catch_warnings():
    # Each of the messages warns that it was generated long ago.
    warnings.simplefilter("ignore", DeprecationWarning)
    from etcd3 import etcdrpc as etcdrpc

_CHANNEL: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)

_IS_LEARNER_OF_REQUEST: Final = b"\x10\x01"
"""Field 2 of ``MemberAddRequest``, true."""
_IS_LEARNER: Final = 5
"""Of ``Member``."""
_IN_USE: Final = 9
"""Of ``StatusResponse``: bytes of the file that are used."""
_LEARNS: Final = 10
"""Of ``StatusResponse``: whether the member is a learner."""


class Channel:
    """To one member at ``target``: ``HOST:PORT``, or ``unix:PATH``.  Answers of more than ``most`` bytes are refused
    (-1: none are)."""

    def __init__(self, target: str, most: int) -> None:
        options = (*_CHANNEL, ("grpc.max_receive_message_length", most))
        self._channel = grpc.insecure_channel(target, options=options)
        self.kv = etcdrpc.KVStub(self._channel)
        self.leases = etcdrpc.LeaseStub(self._channel)
        self.watches = etcdrpc.WatchStub(self._channel)
        self.cluster = etcdrpc.ClusterStub(self._channel)
        self.maintenance = etcdrpc.MaintenanceStub(self._channel)
        self.add_learner = self._channel.unary_unary(
            "/etcdserverpb.Cluster/MemberAdd",
            request_serializer=lambda request: request.SerializeToString() + _IS_LEARNER_OF_REQUEST,
            response_deserializer=etcdrpc.MemberAddResponse.FromString,
        )
        self.promote = self._channel.unary_unary(
            "/etcdserverpb.Cluster/MemberPromote",
            request_serializer=etcdrpc.MemberRemoveRequest.SerializeToString,
            response_deserializer=etcdrpc.MemberListResponse.FromString,
        )

    def close(self) -> None:
        """Calls that are under way end with an error, and later ones raise ``ValueError``."""
        self._channel.close()


def is_learner(member: Any) -> bool:
    """Whether a ``Member`` has no vote."""
    return bool(_unknown(member, _IS_LEARNER))


def bytes_in_use(status: Any) -> int:
    """Of a ``StatusResponse``."""
    return int(_unknown(status, _IN_USE))


def learns(status: Any) -> bool:
    """Whether the member that sent this ``StatusResponse`` has no vote."""
    return bool(_unknown(status, _LEARNS))


def _unknown(message: Any, number: int) -> Any:
    return next((field.data for field in message.UnknownFields() if field.field_number == number), 0)
