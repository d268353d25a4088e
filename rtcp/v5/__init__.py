"""Version 5 of rtcp: what ``docs/rtcp-v5.md`` says, as machines that compute and touch nothing.

From the wire upwards: ``keys``, ``noise``, ``payloads`` and ``messages`` are a handshake's arithmetic, ``opening`` the
marked Hello of version 4; ``calling`` and ``answering`` are its two sides.  ``schedule`` and ``carrier`` are the keys
and the records it leaves.  ``admission`` says who may come in, ``memory`` who spoke version 5 before.

On carriers stands the tunnel: ``frames`` is its language, a ``channel`` its numbered records; ``credit``, ``flows``,
``conversations``, ``legs``, ``ledger``, ``life`` and ``outbox`` hold one rule each.  ``talking`` is what programs want
of it, ``hearing`` what its peer says, ``tunnel`` the whole; ``events`` is what it tells.
"""
