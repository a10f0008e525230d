"""Fetching official files and reading them safely: downloads, archive members, pickles, MATLAB files."""
