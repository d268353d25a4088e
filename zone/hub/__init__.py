"""verify_hub: who somebody is inside the zone, as tokens that every service verifies for itself.

``keyset.py`` has the keys that tokens are signed with, ``tokens.py`` the tokens, ``ledger.py`` the sessions that
stand, ``people.py`` users and passwords, ``subjects.py`` what somebody is for the rules of access, ``throttle.py`` the
patience with strangers.  ``zone/io/hub`` carries it out over the zone's configuration:

| key | what | who reads it |
|---|---|---|
| ``boot/verify-hub/keys`` | the public keys | everybody |
| ``boot/verify-hub/revoked/<session>`` | ended before its time; goes by a lease, once its tokens are dead | everybody |
| ``security/verify-hub/keys`` | the secret keys, sealed | OODs |
| ``security/verify-hub/sessions/<kind>/<name>`` | the sessions of a user or device | OODs |
| ``security/verify-hub/used/…/<jti>`` | it was used, and is good once; goes by a lease | OODs |
| ``security/verify-hub/passwords/<user>`` | what a password is checked with | OODs |
| ``users/<user>/settings`` | ``type`` and ``state`` of the user | kernel, the user |
| ``boot/config`` | the zone's document: the machines and their keys, signed by the owner | everybody |

Nothing here depends on which OOD answers: every decision is one transaction, under the revisions it was made from.
Tokens live by wall clocks, which have to agree within ``tokens.SKEW`` seconds.
"""
