"""The scheduler at work: who of the OODs it is, its rounds, and the checks it asks."""
