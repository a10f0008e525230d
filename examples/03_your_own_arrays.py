"""Few-shot episodes from your own arrays, the same in both frameworks.

`python examples/03_your_own_arrays.py --backend jax`
"""

import argparse
import importlib

import numpy as np

from metabridge import ClassSplitter, CombinationMetaDataset
from metabridge.sources import ArraySource

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--backend", default="torch", choices=["torch", "jax"])
arguments = parser.parse_args()

# 40 classes of 20 pictures; any uint8 (total, H, W, channels) array with labels in any order will do.
generator = np.random.default_rng(0)
prototypes = generator.integers(0, 200, (40, 16, 16, 3))
labels = np.repeat(np.arange(40), 20)
images = (prototypes[labels] + generator.integers(0, 55, (800, 16, 16, 3))).astype(np.uint8)

source = ArraySource.from_labels(images, labels)
train_classes, test_classes = source.select(range(30)), source.select(range(30, 40))
meta_train = ClassSplitter(
    CombinationMetaDataset(train_classes, num_classes_per_task=5), num_train_per_class=5, num_test_per_class=15
)
meta_test = ClassSplitter(
    CombinationMetaDataset(test_classes, num_classes_per_task=5, meta_split="test"),
    num_train_per_class=5,
    num_test_per_class=15,
)

data = importlib.import_module(f"{arguments.backend}_backend.data")
for batch in data.BatchMetaDataLoader(meta_train, batch_size=16, seed=0, num_batches=2):
    inputs, targets = batch["train"]
    print("support", tuple(inputs.shape), inputs.dtype, "targets", tuple(targets.shape), targets.dtype)

print(f"{meta_train.num_tasks} meta-train tasks, {meta_test.num_tasks} meta-test tasks")
print("fingerprint of the meta-train episodes:", meta_train.fingerprint)
