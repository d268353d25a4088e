"""Runs on this machine: keepers, what starts and finds them again, and the kinds."""
