"""`python -m metabridge`: the command line from a checkout."""

from metabridge.cli import main

if __name__ == "__main__":
    main()
