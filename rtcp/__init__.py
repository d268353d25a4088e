"""Floor 2: one encrypted conversation between two devices.  The floor is laid; nobody lives here yet."""
