"""Networks and their neutral parameters."""
