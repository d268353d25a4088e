"""Rules: text becomes a typed tree (``parse``, ``model``), the tree becomes tables (``index``, ``table``), sets come
from strangers' files (``formats``; the big sets themselves live a floor below, in ``cyfs_ns.sets``).

Nothing here resolves a name, reads a file or looks up a process: a table that lacks a fact says so (``Need``).
"""
