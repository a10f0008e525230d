"""The command line."""

from metabridge.cli.cli import app, main

__all__ = ["app", "main"]
