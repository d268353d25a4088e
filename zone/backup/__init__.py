"""Backups of a zone's machines, on a target that is trusted with nothing but room.

A backup is a *manifest* and the *chunks* it names.  A chunk is a piece of what was saved, compressed and encrypted with
a key that follows from it and from a secret of the zone, so that the same piece becomes the same chunk, and is there
once; its name is the SHA-256 of what is stored.  The manifest has the keys of its chunks, encrypted to the owner's key,
and is signed by the machine that made it.

So the target, who knows neither the secret nor a key, can neither read nor guess; anybody can tell that a chunk is what
its name says; and a machine can write backups that it cannot read: whoever takes it has what is on it now, no more.
The secret alone opens no chunk.  With it one can tell whether a piece that one has is in a backup.
"""
