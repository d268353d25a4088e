"""The control API without its sockets: who may ask, which route is meant, and the exact JSON shapes."""
