"""How two devices behind NATs find a direct way to each other, as far as it can be computed.

STUN (``stun.py``) shows how others see us, and ``behaviour.py`` concludes from such views what our NAT does.  Routers
are asked for ports (``portmap/``), peers told where we may be reached and knocked at; what fails goes through a relay.
``rtcp/io/nat/`` puts these machines on sockets.
"""
