"""How two devices behind NATs find a direct way to each other, as far as it can be computed.

STUN (``stun.py``) shows how others see us, and ``behaviour.py`` concludes from such views what our NAT does.  Routers
are asked for ports (``portmap/``), a LAN for a device (``lan.py``).  Peers tell each other where they may be reached
(``candidates.py``) and both knock at once (``punch.py`` by ``plan.py``, with the packets of ``probe.py``, within
``budget.py``); of the ways that stand the best is used (``race.py``), and what fails goes through a relay
(``relayend.py``).  ``rtcp/io/nat/`` puts these machines on sockets.
"""
