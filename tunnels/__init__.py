"""Floor 3: ways to carry bytes somewhere: URL grammar, transports, selection, relaying, the flow reactor."""
