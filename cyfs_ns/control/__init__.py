"""Control APIs without their sockets: who may ask, and which route is meant."""
