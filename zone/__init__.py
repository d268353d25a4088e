"""Floor 5: who belongs to a zone and what they offer."""
