"""Floor 6: this machine as a member of a zone: what it is told to run, it runs."""
