"""The shell of kRPC: services that this process has, doors that calls come in by, and the ways of calls to others."""
