"""The shell of this floor: the machines' sockets, clock and dice."""
