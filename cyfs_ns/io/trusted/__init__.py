"""Asking the world who somebody is: providers, the documents kept on disk, and what carries out a plan."""
