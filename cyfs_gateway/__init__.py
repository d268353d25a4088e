"""Floor 4: the gateway: listeners, sniffers, rules, actions, control API, CLI and the module host."""

__version__ = "0.1.0"
