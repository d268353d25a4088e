"""Shared services in the world: the book of grants, the door for browsers."""
