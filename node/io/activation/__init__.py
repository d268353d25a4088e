"""The shell of activation: the page of a machine that waits for its owner, and the commands of both sides."""
