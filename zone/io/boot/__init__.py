"""The shell of the boot: the files it keeps, where it looks for documents, and the loop that carries it out."""
