"""The zone's logs: lines of machines and services, kept on the machine until an OOD has them."""
