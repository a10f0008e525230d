"""metabridge: few-shot episodes computed once, in NumPy, for PyTorch and for JAX.

The data core. `torch_backend` and `jax_backend` turn its episodes into tensors and meta-train on them;
this package imports neither framework.
"""

from metabridge.episodes.batches import EpisodeBatch
from metabridge.episodes.loader import EpisodeLoader
from metabridge.episodes.metadatasets import CombinationMetaDataset, MetaDataset, Task
from metabridge.episodes.plans import EpisodePlan
from metabridge.episodes.segmentation import SegmentationMetaDataset
from metabridge.episodes.splitters import ClassSplitter, Splitter, WeightedClassSplitter
from metabridge.episodes.supervised import SupervisedView

__version__ = "0.1.0"

__all__ = [
    "ClassSplitter",
    "CombinationMetaDataset",
    "EpisodeBatch",
    "EpisodeLoader",
    "EpisodePlan",
    "MetaDataset",
    "SegmentationMetaDataset",
    "Splitter",
    "SupervisedView",
    "Task",
    "WeightedClassSplitter",
    "__version__",
]
