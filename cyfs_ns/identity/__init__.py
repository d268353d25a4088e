"""Who someone is: DIDs, Ed25519 keys, signed documents, and the DNS records that publish them.

Everything here computes: keys and the time are handed in.  Files and the network are in ``cyfs_ns/io/trusted/``; how
sure we are of what we learnt is decided in ``cyfs_ns/trust/``.
"""
