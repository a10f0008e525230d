"""A Torchmeta-style training loop on Omniglot: MetaModules and `gradient_update_parameters`, only the imports changed.

Build the data first: `metabridge build omniglot --variant small1 --root data`.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

from metabridge.datasets.helpers import omniglot
from torch_backend.adaptation import gradient_update_parameters
from torch_backend.data import BatchMetaDataLoader
from torch_backend.modules import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaModule, MetaSequential

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--root", default="data")
parser.add_argument("--variant", default="small1")
parser.add_argument("--steps", type=int, default=100)
arguments = parser.parse_args()


def conv_block(in_channels, out_channels):
    return MetaSequential(
        MetaConv2d(in_channels, out_channels, 3, padding=1),
        MetaBatchNorm2d(out_channels, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class ConvolutionalNetwork(MetaModule):
    def __init__(self, in_channels, out_features, hidden=32):
        super().__init__()
        self.features = MetaSequential(
            conv_block(in_channels, hidden),
            conv_block(hidden, hidden),
            conv_block(hidden, hidden),
            conv_block(hidden, hidden),
        )
        self.classifier = MetaLinear(hidden, out_features)

    def forward(self, inputs, params=None):
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.classifier(features.flatten(1), params=self.get_subdict(params, "classifier"))


torch.manual_seed(0)
dataset = omniglot(arguments.root, shots=1, ways=5, test_shots=15, meta_train=True, variant=arguments.variant)
loader = BatchMetaDataLoader(dataset, batch_size=4, seed=0, num_batches=arguments.steps)
model = ConvolutionalNetwork(1, 5)
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

for step, batch in enumerate(loader):
    train_inputs, train_targets = batch["train"]
    test_inputs, test_targets = batch["test"]
    outer_loss = torch.tensor(0.0)
    correct = 0
    for task in range(len(train_inputs)):
        inner_loss = F.cross_entropy(model(train_inputs[task]), train_targets[task])
        params = gradient_update_parameters(model, inner_loss, step_size=0.4)
        test_logits = model(test_inputs[task], params=params)
        outer_loss += F.cross_entropy(test_logits, test_targets[task]) / len(train_inputs)
        correct += (test_logits.argmax(-1) == test_targets[task]).sum().item()
    optimiser.zero_grad()
    outer_loss.backward()
    optimiser.step()
    if step % 10 == 0:
        print(f"meta-step {step:4d}  loss {outer_loss.item():.3f}  accuracy {correct / test_targets.numel():.3f}")
