"""How each node of a zone reaches each other one: facts in, a few ways to try out.  Nothing here dials or asks.

``places`` is what the owner signed and what nodes report; ``build`` makes routes of it.  What a node reports helps only
itself and the way to it: no report leads the way to another node, and the end of every way is proven by a key, so that
a false report costs a try and no secret.
"""
