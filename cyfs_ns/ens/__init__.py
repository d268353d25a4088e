"""Names of the Ethereum Name Service: the pure half, from the spelling of a name to what its records mean."""
