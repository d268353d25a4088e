"""Rules: text becomes a typed tree (``parse``, ``model``), the tree becomes tables (``index``, ``table``), sets come
from strangers' files (``formats``, ``mrs``, ``geodata``) and answer quickly in little memory (``sets``).

Nothing here resolves a name, reads a file or looks up a process: a table that lacks a fact says so (``Need``).
"""
