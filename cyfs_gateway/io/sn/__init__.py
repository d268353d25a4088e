"""The shell of the super node: its books on disk, its ledger of usage, and the sockets of its services.

What may be done is decided in ``cyfs_gateway/sn/``; here it is carried out.
"""
