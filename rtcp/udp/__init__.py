"""A carrier over UDP: one reliable, ordered, two-way byte pipe between two addresses that may change.

Everything here computes: datagrams, calls and the time come in; datagrams, bytes and the next deadline come out.
``connection.py`` is the machine of one pipe, ``door.py`` that of whoever may be called; below them, each alone: the
datagrams (``wire.py``), the frames in them, keys, what arrived, what is to be sent, what was sent, the congestion
control, and the search for the largest datagram a path takes.

Why not QUIC.  Measured on loopback, two pinned processes, one stream, datagrams of 1,200 bytes, seconds of CPU per GB
(sender, receiver): aioquic 17 and 15, qh3 7 and 5, a bare loop of this way of sending (one system call for 50
datagrams, one AEAD call for each) 1.4 and 1.4; aioquic so moved 0.46 Gb/s, and 0.02 with 3 % lost.  What stands here,
all in all, took 2.8 and 2.6 for datagrams of 1,472 bytes: 2.8 Gb/s, and 2.2 with 3 % lost.

What is sealed.  The bytes inside are version 5's and sealed from end to end already, so this layer has to keep
strangers from speaking in a peer's name, not from reading.  AEAD of a whole datagram costs 0.7 us here and a MAC of
its head alone 0.4, so the whole is sealed.  The keys come from an exchange of ephemerals that proves nobody: whoever
sits on the path can do what they could to a TCP connection, and nobody else can do anything.
"""
