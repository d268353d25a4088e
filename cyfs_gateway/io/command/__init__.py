"""What commands do in a process of their own, by streams that they get from the gateway that runs in another."""
