"""Modules that come with the gateway."""
