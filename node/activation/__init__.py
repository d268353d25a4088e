"""How a machine becomes one of a zone, and how it stops being one: who asks, who signs, and what is accepted.

    the machine                             where the owner lives
    a request, signed with its key   ──▶    ``signing``: what the owner's zone is with it, and three documents
    ``accept``: its own documents?   ◀──    a membership (``zone/membership.py``)

The owner's key never leaves where the owner lives, and neither way carries a secret.  Requests and memberships are
text: a file, a page, a code that a camera reads.  What the machine has no way to know is which owner is the right one:
a person says so, at its terminal, or on its page with the code (``code``) that stands on its terminal.
"""
