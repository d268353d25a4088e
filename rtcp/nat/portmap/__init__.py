"""Ports on the home router that lead to us, by asking the router: PCP, NAT-PMP and UPnP-IGD.

A mapped port needs no punching and no relay: whoever knows it comes in.  Three languages ask for one.  ``pcp`` (RFC
6887) and ``natpmp`` (RFC 6886) are datagrams; ``ssdp``, ``xmltree`` and ``igd`` are UPnP: a search, a description and
calls over HTTP.  ``epoch`` notices that a router forgot.  ``lease`` asks in all of them, keeps what it was given alive
and gives it back; ``values`` is what the parts talk in.  ``rtcp/io/nat/portmap.py`` puts leases on sockets.

Only the default gateway is believed.  Nobody on the link can be kept from forging its address, so what it says is
bounded and may cost us a mapping, never more: no request goes anywhere but to it, and nothing it says holds us up.

Absent on purpose: PCP's PEER, third parties and filters; pinholes of IPv6 by UPnP, which few routers have and which PCP
does better; mappings for anybody but ourselves.
"""
