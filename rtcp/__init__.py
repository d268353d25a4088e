"""Floor 2: one encrypted conversation between two devices that know each other by their keys.

The root computes.  ``link.py`` is the machine of a tunnel's control connection, ``legs.py`` that of a stream's; below
them, each alone: packets, tokens, admission, the handshake, the key schedule, the record layer, and the bounds;
``door.py`` says how many strangers may be how far in.
``v5/`` is version 5, which a Hello of version 4 can offer (``offer.py``).
``io/`` puts it into the world: ``device.py`` is a device as others reach it.
"""
