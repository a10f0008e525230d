"""The command line: thin verbs over the library, one file each. `metabridge --help` lists them."""

from metabridge.cli.app import main

__all__ = ["main"]
