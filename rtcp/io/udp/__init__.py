"""The carrier of ``rtcp/udp/`` on sockets: an endpoint that many pipes share, and a pipe as the reactor moves it."""
