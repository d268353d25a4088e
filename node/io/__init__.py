"""The shell of this floor: processes, files, clocks and the store."""
