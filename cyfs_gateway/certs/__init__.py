"""Certificates, as far as they can be thought about: which are wanted, whether they are good, when to act."""
