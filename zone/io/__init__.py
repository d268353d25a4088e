"""The shell of this floor: everything here touches sockets, files, clocks or chance."""
