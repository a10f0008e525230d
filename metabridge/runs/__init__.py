"""Runs: recipes, a learner's losses and state, manifests, statistics."""
