"""Runs: recipes, manifests, statistics."""
