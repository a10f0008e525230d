"""Decisions about an inner loop that both backends make before an array exists."""
