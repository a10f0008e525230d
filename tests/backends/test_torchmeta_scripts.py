"""Scripts as people wrote them for Torchmeta run when their imports change, and nothing else."""

import itertools
import re
from collections import OrderedDict

import numpy as np
import pytest
from helpers import every

from metabridge.toy import Sinusoid

MAML = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from collections import OrderedDict
from torchmeta.modules import MetaModule, MetaSequential, MetaLinear
from torchmeta.modules.utils import get_subdict
from torchmeta.toy import Sinusoid
from torchmeta.transforms import ClassSplitter
from torchmeta.utils import gradient_update_parameters
from torchmeta.utils.data import BatchMetaDataLoader

class ToTensor1D(object):
    def __call__(self, array):
        return torch.from_numpy(array.astype('float32'))

def block(in_features, out_features):
    return MetaSequential(OrderedDict([
        ('linear', MetaLinear(in_features, out_features)),
        ('norm', nn.BatchNorm1d(out_features, momentum=1., track_running_stats=False)),
        ('relu', nn.ReLU())]))

class Model(MetaModule):
    def __init__(self, hidden):
        super(Model, self).__init__()
        self.features = MetaSequential(OrderedDict([('layer1', block(1, hidden)), ('layer2', block(hidden, hidden))]))
        self.classifier = MetaLinear(hidden, 1)

    def forward(self, inputs, params=None):
        if params is None:
            params = OrderedDict(self.named_parameters())
        features = self.features(inputs, params=get_subdict(params, 'features'))
        return self.classifier(features, params=self.get_subdict(params, 'classifier'))

def to_device(tensors, device):
    if isinstance(tensors, torch.Tensor):
        return tensors.to(device=device)
    if isinstance(tensors, (list, tuple)):
        return type(tensors)(to_device(each, device) for each in tensors)
    return type(tensors)([(name, to_device(each, device)) for (name, each) in tensors.items()])

torch.manual_seed(0)
splitter = ClassSplitter(shuffle=True, num_train_per_class=5, num_test_per_class=10)
meta_train = Sinusoid(15, num_tasks=1000000, transform=ToTensor1D(), target_transform=ToTensor1D(),
                      dataset_transform=splitter)
meta_val = Sinusoid(15, num_tasks=12, transform=ToTensor1D(), target_transform=ToTensor1D(),
                    dataset_transform=splitter)
train_loader = BatchMetaDataLoader(meta_train, batch_size=4, shuffle=True, num_workers=0, pin_memory=False)
val_loader = BatchMetaDataLoader(meta_val, batch_size=4, shuffle=True, num_workers=0, drop_last=False)
model = Model(8)
step_size = OrderedDict((name, torch.tensor([0.1], requires_grad=True))
                        for (name, param) in model.meta_named_parameters())
optimizer = torch.optim.Adam([*model.parameters(), *step_size.values()], lr=1e-2)

def outer_loss(batch):
    losses = []
    for (x, y, x_test, y_test) in zip(*batch['train'], *batch['test']):
        params = None
        for step in range(2):
            inner = F.mse_loss(model(x, params=params), y, reduction='none').mean(0)
            model.zero_grad()
            params = gradient_update_parameters(model, inner, params=params, step_size=step_size,
                                                first_order=not model.training)
        losses.append(F.mse_loss(model(x_test, params=params), y_test))
    return torch.stack(losses).mean()

losses, num_batches = [], 0
while num_batches < 3:
    for batch in train_loader:
        if num_batches >= 3:
            break
        loss = outer_loss(to_device(batch, torch.device('cpu')))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        num_batches += 1
gradients = [each.grad for each in [*model.meta_parameters(), *step_size.values()]]
model.eval()
count = 0
for batch in val_loader:
    losses.append(outer_loss(batch).item())
    count += 1
assert count == len(val_loader) == 3
assert train_loader.batch_size == 4
"""

OWN_CLASSES = """
import numpy as np
import torch
import torch.nn as nn
from torchmeta.transforms import Categorical, ClassSplitter, Rotation
from torchmeta.utils.data import BatchMetaDataLoader, ClassDataset, CombinationMetaDataset, Dataset
from torchmeta.utils.prototype import get_prototypes, prototypical_loss

class ShapesClass(Dataset):
    def __init__(self, index, images, name, transform=None, target_transform=None):
        super().__init__(index, transform=transform, target_transform=target_transform)
        self.images, self.name = images, name

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, target = self.images[index], self.name
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return (image, target)

class ShapesClassDataset(ClassDataset):
    def __init__(self, meta_train=False, meta_val=False, meta_test=False, meta_split=None, transform=None,
                 class_augmentations=None):
        super().__init__(meta_train=meta_train, meta_val=meta_val, meta_test=meta_test, meta_split=meta_split,
                         class_augmentations=class_augmentations)
        self.transform = transform
        self.labels = ['square', 'stripe', 'corner', 'dot']
        self._num_classes = len(self.labels)

    def __getitem__(self, index):
        name = self.labels[index % self.num_classes]
        generator = np.random.RandomState(index)
        images = generator.randint(0, 255, (9, 8, 8), dtype=np.uint8)
        return ShapesClass(index, images, name, transform=self.get_transform(index, self.transform),
                           target_transform=self.get_target_transform(index))

    @property
    def num_classes(self):
        return self._num_classes

class Shapes(CombinationMetaDataset):
    def __init__(self, num_classes_per_task=None, meta_train=False, meta_val=False, meta_test=False, meta_split=None,
                 transform=None, target_transform=None, dataset_transform=None, class_augmentations=None):
        dataset = ShapesClassDataset(meta_train=meta_train, meta_val=meta_val, meta_test=meta_test,
                                     meta_split=meta_split, transform=transform,
                                     class_augmentations=class_augmentations)
        super().__init__(dataset=dataset, num_classes_per_task=num_classes_per_task,
                         target_transform=target_transform, dataset_transform=dataset_transform)

def to_tensor(image):
    return torch.from_numpy(image).float().div(255).unsqueeze(0)

torch.manual_seed(0)
dataset = Shapes(num_classes_per_task=3, meta_train=True, transform=to_tensor, target_transform=Categorical(3),
                 class_augmentations=[Rotation([90, 180, 270])])
dataset = ClassSplitter(dataset, shuffle=True, num_train_per_class=2, num_test_per_class=4)
dataloader = BatchMetaDataLoader(dataset, batch_size=4, num_workers=0)
model = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for batch_idx, batch in enumerate(dataloader):
    model.zero_grad()
    train_inputs, train_targets = batch['train']
    test_inputs, test_targets = batch['test']
    prototypes = get_prototypes(model(train_inputs), train_targets, dataset.num_classes_per_task)
    loss = prototypical_loss(prototypes, model(test_inputs), test_targets)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if batch_idx == 2:
        break
assert train_inputs.shape == (4, 6, 1, 8, 8)
assert len(dataset) == 560  # 3 of 16 classes
gradients = [each.grad for each in model.parameters()]
"""

OWN_TASKS = """
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchmeta.transforms import ClassSplitter
from torchmeta.utils.data import BatchMetaDataLoader, MetaDataLoader, MetaDataset, Task

class Lines(MetaDataset):
    def __init__(self, num_samples, num_tasks=10, transform=None, target_transform=None, dataset_transform=None):
        super().__init__(meta_split='train', target_transform=target_transform, dataset_transform=dataset_transform)
        self.num_samples, self.number, self.transform = num_samples, num_tasks, transform
        self.slopes = np.linspace(-1, 1, num_tasks)

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        task = LineTask(index, self.slopes[index], self.num_samples, self.transform, self.target_transform)
        if self.dataset_transform is not None:
            task = self.dataset_transform(task)
        return task

class LineTask(Task):
    def __init__(self, index, slope, num_samples, transform=None, target_transform=None):
        super().__init__(index, None, transform=transform, target_transform=target_transform)
        self.inputs = np.linspace(0, 1, num_samples)[:, None]
        self.targets = slope * self.inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return (self.inputs[index], self.targets[index])

losses = []
splitter = ClassSplitter(num_support_per_class=3, num_query_per_class=4)
dataset = Lines(7, dataset_transform=splitter)
slope = torch.zeros(1, requires_grad=True)
for batch in BatchMetaDataLoader(dataset, batch_size=5):
    inputs, targets = batch['support']
    assert inputs.shape == (5, 3, 1) and batch['query'][1].shape == (5, 4, 1)
    ((slope * inputs - targets) ** 2).mean().backward()
for tasks in MetaDataLoader(dataset, batch_size=2, num_workers=0):
    assert len(tasks) == 2
    for task in tasks:
        for inputs, targets in DataLoader(task['query'], batch_size=2):
            losses.append(F.mse_loss(slope * inputs, targets).item())
whole, = BatchMetaDataLoader(Lines(7, num_tasks=3), batch_size=3)
assert isinstance(whole, list) and whole[0].shape == (3, 7, 1)
gradients = [slope.grad]
"""

ANIL = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from collections import OrderedDict
from torchmeta.modules import MetaModule, MetaSequential, MetaLinear
from torchmeta.toy.helpers import sinusoid
from torchmeta.utils.data import BatchMetaDataLoader
from torchmeta.utils.gradient_based import gradient_update_parameters

class Model(MetaModule):
    def __init__(self):
        super(Model, self).__init__()
        self.features = nn.Sequential(nn.Linear(1, 8), nn.ReLU())
        self.head = MetaSequential(MetaLinear(8, 8), nn.PReLU(), MetaLinear(8, 1))

    def forward(self, inputs, params=None):
        return self.head(self.features(inputs), params=self.get_subdict(params, 'head'))

torch.manual_seed(0)
model, losses = Model(), []
for batch in BatchMetaDataLoader(sinusoid(shots=5, num_tasks=4), batch_size=2, num_workers=0):
    model.zero_grad()
    for (x, y), (x_test, y_test) in zip(zip(*batch['train']), zip(*batch['test'])):
        params = OrderedDict(model.named_parameters())
        for step in range(2):
            params = gradient_update_parameters(model, F.mse_loss(model(x, params=params), y), params=params,
                                                step_size=0.1)
        loss = F.mse_loss(model(x_test, params=params), y_test)
        loss.backward()
        losses.append(loss.item())
gradients = [each.grad for each in model.parameters()]
"""

MATCHING = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from torchmeta.utils.data import BatchMetaDataLoader, CombinationMetaDataset
from torchmeta.transforms import Categorical, ClassSplitter

classes = [[(torch.rand(4), name) for _ in range(6)] for name in 'abcde']
dataset = CombinationMetaDataset(classes, 3, target_transform=Categorical(num_classes=3),
                                 dataset_transform=ClassSplitter(num_train_per_class=2, num_test_per_class=3))
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
losses = []
for batch in BatchMetaDataLoader(dataset, batch_size=5, num_workers=0):
    model.zero_grad()
    (support, labels), (queries, targets) = batch['train'], batch['test']
    similarity = F.cosine_similarity(model(queries).unsqueeze(2), model(support).unsqueeze(1), dim=-1)
    probabilities = F.softmax(similarity, dim=-1) @ F.one_hot(labels, 3).float()
    loss = F.nll_loss(torch.log(probabilities).transpose(1, 2), targets)
    loss.backward()
    losses.append(loss.item())
assert len(losses) == 2
gradients = [each.grad for each in model.parameters()]
"""

SCRIPTS = {"maml": MAML, "own classes": OWN_CLASSES, "own tasks": OWN_TASKS, "anil": ANIL, "matching": MATCHING}


def ported(script):
    """The script with the one change that the migration page asks for."""
    return re.sub(r"from torchmeta[\w.]* import", "from torch_backend.torchmeta import", script)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_after_its_imports_change(torch_kit, name):
    source = ported(SCRIPTS[name])
    assert "torchmeta." not in source.replace("torch_backend.torchmeta ", "")
    names = {}
    exec(compile(source, f"{name}.py", "exec"), names)
    assert len(names["losses"]) >= 2
    assert np.isfinite(names["losses"]).all()
    assert names["gradients"]
    assert every(each is not None and each.isfinite().all() for each in names["gradients"])
    assert any(each.any() for each in names["gradients"])


def test_the_check_sees_a_script_that_needs_more_than_its_imports(torch_kit):
    with pytest.raises(ImportError, match="get_asset"):
        exec(ported("from torchmeta.datasets.utils import get_asset"), {})


# Parameters of ordinary modules


@pytest.fixture
def mixed(backend):
    """A MetaModule with an ordinary layer inside, and that layer's weight with its name."""
    if backend.name == "torch":
        nn = backend.torch.nn

        class Model(backend.modules.MetaModule):
            def __init__(self):
                super().__init__()
                self.body, self.head = nn.Linear(3, 4), backend.modules.MetaLinear(4, 2)

            def forward(self, inputs):
                return self.head(self.body(inputs))

        model = Model()
        return model, "body.weight", model.body.weight
    from flax import nnx

    class Network(backend.modules.MetaModule):
        def __init__(self, rngs):
            self.body, self.head = nnx.Linear(3, 4, rngs=rngs), backend.modules.MetaLinear(4, 2, rngs=rngs)

        def __call__(self, inputs):
            return self.head(self.body(inputs))

    network = Network(nnx.Rngs(0))
    return network, "body.kernel", network.body.kernel.get_raw_value()


def test_ordinary_parameters_may_be_named_and_stay_as_they_are(backend, mixed):
    model, name, stored = mixed
    inputs = backend.array(np.ones((5, 3), np.float32))
    own = dict(model.meta_named_parameters())
    everything = {name: stored, **own}
    adaptation = backend.adaptation

    def loss(params):
        return (model(inputs, params=params) ** 2).sum()

    after = adaptation.gradient_update_parameters(model, loss, params=everything, step_size=0.1)
    expected = adaptation.gradient_update_parameters(model, loss, params=own, step_size=0.1)
    assert list(after) == list(everything)
    assert after.pop(name) is stored
    assert {key: backend.numpy(value).tolist() for key, value in after.items()} == {
        key: backend.numpy(value).tolist() for key, value in expected.items()
    }
    assert set(adaptation.complete_parameters(model, {name: stored})) == set(own)
    assert model.get_subdict(everything, "head").keys() == {"weight", "bias"}


def test_a_new_value_for_an_ordinary_parameter_is_an_error_that_says_whose(backend, mixed):
    model, name, stored = mixed
    params = {**dict(model.meta_named_parameters()), name: stored + 0}
    message = f"`params` holds a new value for '{name}', a parameter of the ordinary module 'body' in "
    calls = (
        lambda: model(backend.array(np.ones((5, 3), np.float32)), params=params),
        lambda: model.get_subdict(params, "head"),
        lambda: backend.adaptation.gradient_update_parameters(model, lambda p: p, params=params),
        lambda: backend.adaptation.complete_parameters(model, params),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


# Losses and step sizes


def test_a_loss_of_one_element_may_have_any_shape(backend, mixed):
    model, _, _ = mixed
    inputs = backend.array(np.ones((5, 3), np.float32))

    def update(shape):
        def loss(params):
            return (model(inputs, params=params) ** 2).sum().reshape(shape)

        return backend.adaptation.gradient_update_parameters(model, loss, step_size=0.1)

    expected = update(())
    for shape in ((1,), (1, 1)):
        for name, value in update(shape).items():
            assert backend.numpy(value).tolist() == backend.numpy(expected[name]).tolist()
    with pytest.raises(ValueError, match=r"`loss` must be a scalar, got shape \(5, 2\)"):
        backend.adaptation.gradient_update_parameters(model, lambda params: model(inputs, params=params))


def test_a_loss_that_is_a_tensor_of_several_elements_is_refused(torch_kit):
    model = torch_kit.modules.MetaLinear(3, 2)
    loss = model(torch_kit.torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"`loss` must be a scalar, got shape \(5, 2\)"):
        torch_kit.adaptation.gradient_update_parameters(model, loss)
    torch_kit.adaptation.gradient_update_parameters(model, loss.mean().reshape(1, 1))


@pytest.mark.parametrize(
    ("form", "rate"),
    [
        ("one element", lambda shape: np.full((1,), 0.1)),
        ("by name, one element", lambda shape: np.full((1,), 0.1)),
        ("by name, an axis", lambda shape: np.full((1,) * (len(shape) - 1) + shape[-1:], 0.1)),
    ],
)
def test_step_sizes_broadcast(backend, mixed, form, rate):
    model, _, _ = mixed
    inputs = backend.array(np.ones((5, 3), np.float32))
    shapes = {name: tuple(value.shape) for name, value in model.meta_named_parameters()}
    rates = {name: backend.array(rate(shape).astype(np.float32)) for name, shape in shapes.items()}

    def update(step_size):
        loss = lambda params: (model(inputs, params=params) ** 2).sum()  # noqa: E731
        return backend.adaptation.gradient_update_parameters(model, loss, step_size=step_size)

    found, expected = update(rates if "name" in form else rates["head.weight"]), update(0.1)
    for name, value in found.items():
        assert tuple(value.shape) == shapes[name]
        np.testing.assert_allclose(backend.numpy(value), backend.numpy(expected[name]), rtol=1e-6)


# The other names


def test_get_subdict_takes_the_names_below_a_key(torch_kit):
    from torch_backend.torchmeta import get_subdict

    params = OrderedDict([("a.b.weight", 1), ("a.bias", 2), ("ab.weight", 3)])
    assert get_subdict(None, "a") is None
    assert get_subdict(params) == get_subdict(params, "") == params
    assert get_subdict(params, "a") == {"b.weight": 1, "bias": 2}
    assert get_subdict(params, "a.b") == {"weight": 1}
    assert get_subdict(params, "c") == {}
    layer = torch_kit.modules.MetaLinear(3, 2)
    with pytest.raises(ValueError, match="'weight' is missing"):
        layer(torch_kit.torch.ones(1, 3), params=get_subdict(params, "c"))


def test_the_prototypical_loss_of_a_batch_is_the_mean_over_its_tasks(torch_kit):
    from torch_backend.torchmeta import prototypical_loss

    torch = torch_kit.torch
    prototypes, embeddings = torch.randn(4, 3, 5), torch.randn(4, 7, 5)
    targets = torch.arange(28).reshape(4, 7) % 3
    single = torch.stack([prototypical_loss(*each) for each in zip(prototypes, embeddings, targets, strict=True)])
    torch.testing.assert_close(prototypical_loss(prototypes, embeddings, targets), single.mean())
    assert prototypical_loss(prototypes, embeddings, targets, reduction="none").shape == (4, 7)


def test_a_toy_with_transforms_is_the_toy_and_says_so(torch_kit):
    from torch_backend import torchmeta

    plain, same = Sinusoid(5, num_tasks=9), torchmeta.Sinusoid(5, num_tasks=9)
    assert same.episodes(range(3)).digest() == plain.episodes(range(3)).digest()
    assert same.fingerprint == plain.fingerprint
    doubled = torchmeta.Sinusoid(5, 9, None, np.abs, lambda y: np.concatenate([y, -y]))
    inputs, targets = doubled.episodes(range(3))["all"]
    assert np.array_equal(inputs, np.abs(plain.episodes(range(3))["all"][0]))
    assert targets.shape == (3, 5, 2)
    assert doubled.fingerprint != plain.fingerprint


def test_tasks_of_a_meta_data_loader_are_those_of_the_batches(torch_kit):
    from backends.problems import PROBLEMS
    from torch_backend.torchmeta import BatchMetaDataLoader, MetaDataLoader

    dataset, torch = PROBLEMS["images"].dataset(), torch_kit.torch
    options = {"batch_size": 2, "num_batches": 2, "seed": 3}
    for tasks, batch in zip(MetaDataLoader(dataset, **options), BatchMetaDataLoader(dataset, **options), strict=True):
        for row, (task, name) in enumerate(itertools.product(tasks, batch)):
            inputs, targets = batch[name][0][row // 2], batch[name][1][row // 2]
            assert len(task[name]) == len(inputs)
            assert torch.equal(task[name][1][0], inputs[1])
            assert task[name][1][1] == int(targets[1])


def test_torchmetas_names_are_listed_and_importable(torch_kit):
    from torch_backend import torchmeta

    assert len(torchmeta.__all__) == len(set(torchmeta.__all__)) > 50
    assert every(getattr(torchmeta, name).__doc__ for name in torchmeta.__all__)


def test_own_tasks_of_unequal_sizes_are_refused_in_one_batch(torch_kit):
    names = {}
    exec(ported(OWN_TASKS), names)

    class Uneven(names["Lines"]):
        def __getitem__(self, index):
            return names["LineTask"](index, 1.0, 3 + index)

    with pytest.raises(ValueError, match="tasks of a batch must have equally many examples, got 3 to 12"):
        Uneven(7).episodes(range(40))
