"""The shell of logs: where lines lie, and how they get there."""
