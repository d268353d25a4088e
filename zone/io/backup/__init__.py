"""The shell of backups: targets, what is saved, making and restoring."""
