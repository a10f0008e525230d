"""Code written for Torchmeta 1.8 runs when its imports change, and nothing else."""

import pytest
from helpers import every

IMPORTS = {
    "torchmeta.modules": "torch_backend.modules",
    "torchmeta.utils.gradient_based": "torch_backend.adaptation",
    "torchmeta.utils.data": "torch_backend.data",
    "torchmeta.toy.helpers": "metabridge.toy.helpers",
}

REGRESSION = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from collections import OrderedDict
from torchmeta.modules import MetaModule, MetaSequential, MetaLinear
from torchmeta.utils.gradient_based import gradient_update_parameters
from torchmeta.utils.data import BatchMetaDataLoader
from torchmeta.toy.helpers import sinusoid

class Model(MetaModule):
    def __init__(self, hidden_sizes):
        super(Model, self).__init__()
        layer_sizes = [1] + hidden_sizes
        self.features = MetaSequential(OrderedDict([('layer{0}'.format(i + 1),
            MetaSequential(OrderedDict([
                ('linear', MetaLinear(hidden_size, layer_sizes[i + 1], bias=True)),
                ('relu', nn.ReLU())
            ]))) for (i, hidden_size) in enumerate(layer_sizes[:-1])]))
        self.classifier = MetaLinear(hidden_sizes[-1], 1, bias=True)

    def forward(self, inputs, params=None):
        features = self.features(inputs, params=self.get_subdict(params, 'features'))
        return self.classifier(features, params=self.get_subdict(params, 'classifier'))

torch.manual_seed(1)
dataset = sinusoid(shots=10, test_shots=15, seed=0)
dataloader = BatchMetaDataLoader(dataset, batch_size=25, num_workers=0, pin_memory=False)
model = Model([40, 40])
meta_optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
step_size = OrderedDict((name, torch.tensor(0.01, requires_grad=True)) for (name, _) in model.meta_named_parameters())
losses = []
for batch_idx, batch in enumerate(dataloader):
    model.zero_grad()
    outer_loss = torch.tensor(0.)
    for task_idx, (train_input, train_target, test_input, test_target) in enumerate(
            zip(*batch['train'], *batch['test'])):
        params = None
        for step in range(2):
            inner_loss = F.mse_loss(model(train_input, params=params), train_target)
            model.zero_grad()
            params = gradient_update_parameters(model, inner_loss, params=params, step_size=step_size,
                                                first_order=False)
        outer_loss += F.mse_loss(model(test_input, params=params), test_target)
    outer_loss.div_(len(batch['train'][0]))
    outer_loss.backward()
    meta_optimizer.step()
    losses.append(outer_loss.item())
    if batch_idx == 2:
        break
gradients = [each.grad for each in step_size.values()]
"""

LAYERS = """
import torch
import torch.nn as nn
from torchmeta.modules import (DataParallel, MetaBatchNorm1d, MetaBatchNorm2d, MetaBatchNorm3d, MetaBilinear,
    MetaConv1d, MetaConv2d, MetaConv3d, MetaEmbedding, MetaEmbeddingBag, MetaLayerNorm, MetaLinear, MetaModule,
    MetaMultiheadAttention, MetaSequential)
from torchmeta.utils.gradient_based import gradient_update_parameters

class Model(MetaModule):
    def __init__(self):
        super(Model, self).__init__()
        self.embedding = MetaEmbedding(10, 8)
        self.bag = MetaEmbeddingBag(10, 8, mode='sum')
        self.attention = MetaMultiheadAttention(8, 2)
        self.conv = MetaSequential(MetaConv1d(8, 8, 3, padding=1), MetaBatchNorm1d(8), nn.ReLU())
        self.norm = MetaLayerNorm(8)
        self.bilinear = MetaBilinear(8, 8, 4)
        self.head = MetaLinear(4, 2)

    def forward(self, tokens, params=None):
        x = self.embedding(tokens, params=self.get_subdict(params, 'embedding')).transpose(0, 1)
        x, _ = self.attention(x, x, x, need_weights=False, params=self.get_subdict(params, 'attention'))
        x = self.conv(x.permute(1, 2, 0), params=self.get_subdict(params, 'conv')).mean(2)
        x = self.norm(x, params=self.get_subdict(params, 'norm'))
        bag = self.bag(tokens, params=self.get_subdict(params, 'bag'))
        x = self.bilinear(x, bag, params=self.get_subdict(params, 'bilinear'))
        return self.head(x, params=self.get_subdict(params, 'head'))

model = DataParallel(Model())
tokens, labels = torch.randint(0, 10, (6, 5)), torch.tensor([0, 1] * 3)
losses, params = [], None
for step in range(2):
    loss = nn.functional.cross_entropy(model(tokens, params=params), labels)
    params = gradient_update_parameters(model, loss, params=params, step_size=0.1)
    losses.append(loss.item())
nn.functional.cross_entropy(model(tokens, params=params), labels).backward()
gradients = [each.grad for each in model.parameters()]
"""


@pytest.mark.parametrize("source", [REGRESSION, LAYERS], ids=["regression", "layers"])
def test_a_torchmeta_script_runs_after_its_imports_change(torch_kit, source):
    for old, new in IMPORTS.items():
        source = source.replace(f"from {old} import", f"from {new} import")
    assert "torchmeta" not in source
    names = {}
    exec(compile(source, "torchmeta_script.py", "exec"), names)
    assert len(names["losses"]) >= 2
    assert every(map(torch_kit.torch.isfinite, map(torch_kit.torch.tensor, names["losses"])))
    assert every(each is not None and each.isfinite().all() for each in names["gradients"])
    assert any(each.any() for each in names["gradients"])


def test_the_migration_page_names_these_imports():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "from-torchmeta.md").read_text()
    for old, new in IMPORTS.items():
        assert f"{old}." in page
        assert f"{new}." in page
