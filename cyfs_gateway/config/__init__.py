"""The configuration: read as written, then as meant; pure, from bytes to values with every fault in its place."""
