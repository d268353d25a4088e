"""system_config, the part that decides: what keys and values are, what a transaction does, and who may do it.

The zone's state is a map from keys to JSON texts.  Each transaction that changes it makes one revision, one above the
last; older revisions can be read until they are compacted, and changes can be watched from any of them.

Two stores keep it (``zone/io/config/``): a file on the only machine, or etcd.  They know revisions, guards and texts,
nothing else; what is richer (JSON paths, lists that grow, comparisons by value) is decided here, from entries that were
read, and becomes plain writes guarded by the revisions of what was read.
"""
