"""Networks as tables of layers, and their neutral parameters."""
