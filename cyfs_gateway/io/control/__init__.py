"""The control API on its sockets: Clash's external controller, and what is ours under ``/cyfs/``."""

from cyfs_gateway.io.control.server import serve_control as serve_control
