"""Episodes: splitters, plans, batches, meta-datasets, the loader."""
