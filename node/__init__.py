"""Floor 6: this machine as a member of a zone.  The floor is laid; nobody lives here yet."""
