"""The shell around ``node/image``: archives and folders are read, and layers laid on the disk."""
