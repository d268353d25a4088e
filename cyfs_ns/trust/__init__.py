"""How sure we are of what we learnt about a name, and why: levels, evidence, plans and the verdict over all of it.

Everything here computes.  What asks the world stands in ``cyfs_ns/io/trusted/``.
"""
