"""What the gateway of a node carries for the zone, followed in the store."""
