"""NAT traversal on real sockets: the shell of ``rtcp/nat/``."""
