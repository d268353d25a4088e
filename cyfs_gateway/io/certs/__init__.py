"""Certificates in the world: an authority that gives them, files that keep them, doors that show them."""
