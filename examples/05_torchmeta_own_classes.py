"""Classes of one's own, written for Torchmeta, and a prototypical network: only the imports changed.

`python examples/05_torchmeta_own_classes.py --steps 100`
"""

import argparse

import numpy as np
import torch
from torch import nn

from torch_backend.torchmeta import (
    BatchMetaDataLoader,
    Categorical,
    ClassDataset,
    ClassSplitter,
    CombinationMetaDataset,
    Dataset,
    Rotation,
    get_prototypes,
    prototypical_loss,
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100)
arguments = parser.parse_args()


class Shapes(Dataset):
    """The images of one class: a pattern under noise."""

    def __init__(self, index, name, transform=None, target_transform=None):
        super().__init__(index, transform=transform, target_transform=target_transform)
        generator = np.random.default_rng(index)
        pattern = generator.integers(0, 180, (1, 12, 12))
        self.images = (pattern + generator.integers(0, 76, (20, 12, 12))).astype(np.uint8)
        self.name = name

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), self.name


class ShapesClasses(ClassDataset):
    """Thirty classes, each a dataset."""

    def __init__(self, transform=None, **kwargs):
        super().__init__(**kwargs)
        self.transform = transform
        self.labels = [f"shape {index}" for index in range(self.num_classes)]

    @property
    def num_classes(self):
        return 30

    def __getitem__(self, index):
        return Shapes(index, self.labels[index], transform=self.get_transform(index, self.transform))


classes = ShapesClasses(meta_train=True, class_augmentations=[Rotation([90, 180, 270])])
dataset = CombinationMetaDataset(classes, num_classes_per_task=5, target_transform=Categorical(5))
dataset = ClassSplitter(dataset, shuffle=True, num_train_per_class=1, num_test_per_class=5)
loader = BatchMetaDataLoader(dataset, batch_size=8, shuffle=True, num_workers=0)

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(2), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 32))
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
for step, batch in enumerate(loader):
    train_inputs, train_targets = batch["train"]
    test_inputs, test_targets = batch["test"]
    prototypes = get_prototypes(model(train_inputs), train_targets, dataset.num_classes_per_task)
    loss = prototypical_loss(prototypes, model(test_inputs), test_targets)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 10 == 0:
        print(f"meta-step {step:4d}  loss {loss.item():.3f}")
    if step + 1 == arguments.steps:
        break
