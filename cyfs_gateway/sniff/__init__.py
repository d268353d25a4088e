"""Sniffers: the name a flow is really about, read from its first bytes, and the policy when to look.

``quic`` and ``policy`` are imported by their own names: the first brings cryptography along.
"""

from __future__ import annotations

from cyfs_gateway.sniff.http import sniff_http
from cyfs_gateway.sniff.result import MORE, NOT_IT, Sniffed, SniffResult
from cyfs_gateway.sniff.tls import sniff_tls

__all__ = ["MORE", "NOT_IT", "SniffResult", "Sniffed", "sniff_http", "sniff_tls"]
