"""Floor 2: one encrypted conversation between two devices that know each other by their keys.

Everything here computes.  ``link.py`` is the machine of a tunnel's control connection, ``legs.py`` that of a stream's;
below them, each alone: packets, tokens, admission, the handshake, the key schedule, the record layer, and the bounds.
"""
