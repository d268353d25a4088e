"""Floor 5: who belongs to a zone and what they offer.  The floor is laid; nobody lives here yet."""
