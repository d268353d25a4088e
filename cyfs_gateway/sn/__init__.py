"""A super node (SN), the part that decides: who has an account, which names and devices are theirs, what they may use.

Everything here computes; the time, random bits and what the world answered are handed in.  The registry is held in
memory and asked by the DNS, the relay and the ingress; what changes it is a signed request and the verdict upon it.
Disk and sockets are in ``cyfs_gateway/io/sn/``.
"""
