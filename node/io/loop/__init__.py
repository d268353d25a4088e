"""The node loop on a machine: orders from the store, runs below the home, reports under the node's lease."""
