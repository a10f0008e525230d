"""PyTorch on metabridge's episodes: loaders, MetaModules, adaptation and algorithms."""
