"""Loaders of both backends yield the core's episodes, bit for bit, however they are asked."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from checkers import check_save_and_restore
from helpers import ROOT, run_python
from tolerances import assert_identical

from backends.problems import PROBLEMS, binary_images, vectors
from metabridge.episodes.batches import arrays_digest
from metabridge.episodes.loader import EpisodeLoader
from metabridge.episodes.metadatasets import CombinationMetaDataset
from metabridge.episodes.splitters import ClassSplitter, WeightedClassSplitter
from metabridge.episodes.supervised import SupervisedView
from metabridge.sources import ArraySource
from metabridge.toy.helpers import sinusoid
from metabridge.toy.sinusoid import Sinusoid
from metabridge.transforms import ColorJitter, Normalize, RandomCrop, RandomHorizontalFlip, Resize

DATASETS = {
    "sinusoid": lambda: sinusoid(5, test_shots=7),
    "vectors": PROBLEMS["vectors"].dataset,
    "images": PROBLEMS["images"].dataset,
}
EVERY_DATASET = pytest.mark.parametrize("name", DATASETS)


def digests(kit, loader):
    """What a loader yields, back in NumPy and hashed."""
    return [arrays_digest(kit.data.to_numpy(data)) for data in loader]


def expected_digests(dataset, batch_size=4, num_batches=5, **options):
    return [batch.digest() for batch in EpisodeLoader(dataset, batch_size, num_batches, **options)]


# Shapes, dtypes, layout


@EVERY_DATASET
def test_batches_have_torchmetas_keys_and_each_frameworks_own_layout(backend, name):
    loader = backend.data.BatchMetaDataLoader(DATASETS[name](), batch_size=2, num_batches=1, seed=0)
    (batch,) = loader
    assert list(batch) == ["train", "test"]
    assert {type(pair) for pair in batch.values()} == {tuple}
    shapes = {split: tuple(tuple(each.shape) for each in pair) for split, pair in batch.items()}
    image = (1, 28, 28) if backend.name == "torch" else (28, 28, 1)
    assert (
        shapes
        == {
            "sinusoid": {"train": ((2, 5, 1), (2, 5, 1)), "test": ((2, 7, 1), (2, 7, 1))},
            "vectors": {"train": ((2, 6, 4), (2, 6)), "test": ((2, 9, 4), (2, 9))},
            "images": {"train": ((2, 3, *image), (2, 3)), "test": ((2, 9, *image), (2, 9))},
        }[name]
    )
    inputs, targets = batch["train"]
    integers = "int64" if backend.name == "torch" else "int32"
    assert str(inputs.dtype).removeprefix("torch.") == "float32"
    assert str(targets.dtype).removeprefix("torch.") == ("float32" if name == "sinusoid" else integers)


def test_jax_targets_are_int64_in_64_bit_mode(jax_kit):
    with jax_kit.float64():
        (batch,) = jax_kit.data.BatchMetaDataLoader(DATASETS["vectors"](), num_batches=1)
        assert batch["train"][1].dtype == np.int64
        assert batch["train"][0].dtype == np.float32


@EVERY_DATASET
def test_there_and_back_is_the_identity(backend, name):
    batch = DATASETS[name]().episodes(range(3), seed=0)
    found = backend.data.to_numpy(backend.data.to_backend(batch))
    assert list(found) == list(batch)
    for split, (inputs, targets) in found.items():
        assert_identical(inputs, batch[split][0])
        assert_identical(targets, batch[split][1])
    assert arrays_digest(found) == batch.digest()


@EVERY_DATASET
def test_a_changed_number_changes_the_digest(backend, name):
    batch = DATASETS[name]().episodes(range(3), seed=0)
    found = {
        key: [each.copy() for each in pair]
        for key, pair in backend.data.to_numpy(backend.data.to_backend(batch)).items()
    }
    found["test"][0].reshape(-1)[-1] = np.nextafter(found["test"][0].reshape(-1)[-1], np.float32(2))
    assert arrays_digest(found) != batch.digest()


def test_image_axes_are_moved_and_not_reshaped(backend):
    images = np.arange(2 * 3 * 4 * 5 * 2, dtype=np.float32).reshape(2, 3, 4, 5, 2)
    moved, _ = backend.data.to_backend({"train": (images, np.zeros((2, 3), np.int64))})["train"]
    expected = images.transpose(0, 1, 4, 2, 3) if backend.name == "torch" else images
    assert_identical(np.asarray(moved), np.ascontiguousarray(expected))


def test_without_a_splitter_a_batch_is_one_list(backend):
    whole = CombinationMetaDataset(vectors(), 3)
    for dataset, targets_shape in ((whole, (2, 24)), (Sinusoid(6), (2, 6, 1))):
        loader = backend.data.BatchMetaDataLoader(dataset, batch_size=2, num_batches=2, seed=1)
        for pair, batch in zip(loader, EpisodeLoader(dataset, 2, 2, seed=1), strict=True):
            assert type(pair) is list
            assert tuple(pair[1].shape) == targets_shape
            assert arrays_digest(backend.data.to_numpy({"all": tuple(pair)})) == batch.digest()


# Image transforms

AUGMENTATIONS = [
    Resize((14, 12)),
    RandomCrop((12, 10), padding=1),
    RandomHorizontalFlip(),
    ColorJitter(0.4, 0.4, 0.4),
    Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
]


def coloured(transform=AUGMENTATIONS):
    """Images of three channels, from integer arithmetic."""
    images = (np.arange(6 * 8 * 16 * 16 * 3, dtype=np.uint64) ** 2 // 7 % 251).astype(np.uint8).reshape(-1, 16, 16, 3)
    source = ArraySource.from_labels(images, np.repeat(np.arange(6), 8))
    rule = ClassSplitter(num_train_per_class=2, num_test_per_class=3)
    return CombinationMetaDataset(source, 3, dataset_transform=rule, transform=transform)


def test_augmented_pixels_are_the_same_bits_in_both_backends(torch_kit, jax_kit):
    expected = expected_digests(coloured(), seed=5)
    assert expected != expected_digests(coloured(None), seed=5)
    for kit in (torch_kit, jax_kit):
        loader = kit.data.BatchMetaDataLoader(coloured(), 4, num_batches=5, seed=5)
        assert digests(kit, loader) == expected
        loader.seek(0)
        shape = tuple(next(iter(loader))["test"][0].shape)
        assert shape == ((4, 9, 3, 12, 10) if kit.name == "torch" else (4, 9, 12, 10, 3))


def test_episodes_of_a_weighted_splitter_arrive_one_by_one_and_padded(backend):
    images = np.arange(60 * 36, dtype=np.uint32).astype(np.uint8).reshape(60, 6, 6, 1)
    source = ArraySource.from_labels(images, np.repeat(np.arange(4), [6, 24, 10, 20]))
    dataset = CombinationMetaDataset(source, 2)
    WeightedClassSplitter(dataset, train_weights=0.2, test_weights=0.5)
    loader = backend.data.BatchMetaDataLoader(dataset, 1, num_batches=8, seed=1)
    assert digests(backend, loader) == expected_digests(dataset, 1, 8, seed=1)
    padded = backend.data.BatchMetaDataLoader(dataset, 8, num_batches=1, seed=1)
    assert digests(backend, padded) == expected_digests(dataset, 8, 1, seed=1)
    ignored = backend.numpy(next(iter(padded))["train"][1]) == -100  # the ignore_index of both backends' losses
    assert np.array_equal(ignored, ~dataset.episodes(range(8, 16), 1).masks["train"])
    assert ignored.any()


def test_torchvision_transforms_each_image_of_its_own(torch_kit):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    torch, dataset = torch_kit.torch, coloured(None)

    def batch(transform, **options):
        loader = torch_kit.data.BatchMetaDataLoader(dataset, 4, num_batches=1, seed=5, transform=transform, **options)
        return next(iter(loader))

    plain = batch(None)
    fixed = v2.Compose([v2.CenterCrop((8, 10)), v2.Normalize([0.5] * 3, [0.25] * 3)])
    changed = batch(fixed)
    for split, (inputs, targets) in plain.items():
        expected = (inputs[..., 4:12, 3:13] - 0.5) / 0.25
        torch.testing.assert_close(changed[split][0], expected)
        assert torch.equal(changed[split][1], targets)
    flipped = batch(v2.RandomHorizontalFlip(0.5))["test"][0]
    same = (flipped == plain["test"][0]).flatten(2).all(dim=2)
    mirrored = (flipped == plain["test"][0].flip(-1)).flatten(2).all(dim=2)
    assert bool((same | mirrored).all())
    assert 5 < int(same.sum()) < 31, "of 36; a flip of the whole batch would be 0 or 36"


def test_what_no_tensor_can_be_transformed_by_is_refused(torch_kit):
    make = torch_kit.data.BatchMetaDataLoader
    with pytest.raises(TypeError, match="`transform` must be a function of an image tensor, got 'flip'"):
        make(DATASETS["images"](), transform="flip")
    for name in ("vectors", "sinusoid"):
        with pytest.raises(ValueError, match=r"`transform` is for images \(B, n, C, H, W\), got inputs of shape"):
            next(iter(make(DATASETS[name](), transform=lambda image: image)))


def test_the_supervised_view_goes_into_a_data_loader(torch_kit):
    view = SupervisedView(coloured())
    torch = torch_kit.torch
    sampler = list(range(47, -1, -1))
    loader = torch.utils.data.DataLoader(view, batch_size=10, sampler=sampler)
    found = list(loader)
    assert [len(labels) for _, labels in found] == [10, 10, 10, 10, 8]
    inputs, labels = torch.cat([each for each, _ in found]), torch.cat([each for _, each in found])
    assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert_identical(inputs.numpy(), view.gather(sampler)[0])
    assert labels.tolist() == view.labels[::-1].tolist()


# Which episodes


@EVERY_DATASET
def test_a_loader_yields_the_cores_episodes(backend, name):
    dataset = DATASETS[name]()
    loader = backend.data.BatchMetaDataLoader(dataset, batch_size=4, num_batches=5, seed=3)
    assert digests(backend, loader) == expected_digests(dataset, seed=3)
    assert digests(backend, loader) == expected_digests(dataset, seed=3, start=20)  # the next loop goes on
    loader.seek(0)
    assert digests(backend, loader) == expected_digests(dataset, seed=3)


def test_the_seed_defaults_to_the_datasets(backend):
    dataset = DATASETS["vectors"]()
    dataset.seed(7)
    loader = backend.data.BatchMetaDataLoader(dataset, 4, num_batches=5)
    assert digests(backend, loader) == expected_digests(dataset, seed=7) != expected_digests(dataset, seed=8)


def test_nothing_global_decides(torch_kit):
    dataset = DATASETS["vectors"]()
    for seed in (0, 1):
        torch_kit.torch.manual_seed(seed)
        np.random.seed(seed)
        loader = torch_kit.data.BatchMetaDataLoader(dataset, 4, num_batches=5, seed=0, shuffle=True)
        assert digests(torch_kit, loader) == expected_digests(dataset, seed=0)


def episodes(kit, loader):
    """The support inputs of every single episode a loader yields."""
    return np.concatenate([kit.data.to_numpy(data)["train"][0] for data in loader])


@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_batch_size_cuts_one_stream(backend, batch_size):
    dataset = DATASETS["vectors"]()
    loader = backend.data.BatchMetaDataLoader(dataset, batch_size, num_batches=12 // batch_size, seed=0)
    assert_identical(episodes(backend, loader), dataset.episodes(range(12), seed=0)["train"][0])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_union_of_all_shards_is_the_single_stream(backend, world):
    dataset = DATASETS["vectors"]()
    ranks = [
        episodes(
            backend,
            backend.data.BatchMetaDataLoader(dataset, 2, num_batches=6 // world, seed=0, shard=(rank, world), start=5),
        )
        for rank in range(world)
    ]
    union = np.stack(ranks, axis=1).reshape(12, *ranks[0].shape[1:])
    assert_identical(union, dataset.episodes(range(5, 17), seed=0)["train"][0])


@pytest.mark.parametrize(("num_tasks", "batch_size", "world"), [(35, 5, 1), (36, 5, 1), (35, 5, 2), (3, 5, 1)])
def test_an_epoch_has_as_many_episodes_as_there_are_tasks(backend, num_tasks, batch_size, world):
    loader = backend.data.BatchMetaDataLoader(Sinusoid(5, num_tasks=num_tasks), batch_size, shard=(0, world))
    expected = math.ceil(num_tasks / (batch_size * world))
    assert len(loader) == len(list(loader)) == expected
    assert loader.batch_size == batch_size
    assert len(EpisodeLoader(loader.episodes.dataset, batch_size, shard=(0, world))) == expected


def test_a_length_beyond_integers_is_an_error_and_a_loop(backend):
    loader = backend.data.BatchMetaDataLoader(Sinusoid(5, num_tasks=2**63 - 1), 1)
    assert len(list(itertools.islice(loader, 3))) == 3
    assert len(loader) == 2**63 - 1
    loader.episodes.num_batches += 1
    with pytest.raises(OverflowError, match="`len` cannot hold the number of batches"):
        len(loader)


def test_length_is_what_the_user_sets(backend):
    make = backend.data.BatchMetaDataLoader
    assert len(make(DATASETS["vectors"](), num_batches=11)) == 11
    endless = make(DATASETS["vectors"](), batch_size=2, num_batches=math.inf)
    with pytest.raises(TypeError, match="this loader is endless; give `num_batches`"):
        len(endless)
    assert len(list(itertools.islice(endless, 150))) == 150
    assert endless.position == 300


# Positions


@EVERY_DATASET
def test_saving_and_restoring_at_every_position(backend, name):
    dataset = DATASETS[name]()

    def make():
        return backend.data.BatchMetaDataLoader(dataset, 2, num_batches=3, seed=4)

    check_save_and_restore(make, lambda data: arrays_digest(backend.data.to_numpy(data)))


def test_a_loop_left_early_goes_on_where_it_stopped(backend):
    dataset = DATASETS["vectors"]()
    loader = backend.data.BatchMetaDataLoader(dataset, 4, num_batches=5, seed=0)
    expected = expected_digests(dataset, seed=0)
    begun = digests(backend, itertools.islice(loader, 2))
    assert loader.position == 8
    assert begun + digests(backend, loader) == expected


def test_a_state_moves_between_backends_and_batch_sizes(torch_kit, jax_kit):
    dataset = DATASETS["vectors"]()
    for giver, taker in ((torch_kit, jax_kit), (jax_kit, torch_kit)):
        first = giver.data.BatchMetaDataLoader(dataset, 4, num_batches=2, seed=0)
        begun = episodes(giver, first)
        second = taker.data.BatchMetaDataLoader(dataset, 2, num_batches=6, seed=0)
        second.load_state_dict(first.state_dict())
        whole = np.concatenate([begun, episodes(taker, second)])
        assert_identical(whole, dataset.episodes(range(12), seed=0)["train"][0])


def test_a_state_of_other_episodes_is_refused(backend):
    make = backend.data.BatchMetaDataLoader
    loader = make(DATASETS["vectors"](), seed=0)
    for other, field in (
        (make(DATASETS["vectors"](), seed=1), "seed"),
        (make(DATASETS["images"](), seed=0), "episodes"),
    ):
        with pytest.raises(ValueError, match=f"belongs to other episodes: its `{field}` differs"):
            loader.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"must be of version 1, got 99"):
        loader.load_state_dict({**loader.state_dict(), "version": 99})
    assert loader.position == 0


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer, got 0"),
        ({"batch_size": True}, "`batch_size` must be a positive integer, got True"),
        ({"num_batches": 0}, "`num_batches` must be a positive integer, or math.inf"),
        ({"num_batches": 2.5}, "`num_batches` must be a positive integer, or math.inf"),
        ({"shard": (2, 2)}, r"`shard` must be .*\(rank, world\).*, got \(2, 2\)"),
        ({"start": -1}, "`start` must be a non-negative episode index, got -1"),
    ],
)
def test_impossible_loaders_are_refused(backend, options, message):
    with pytest.raises(ValueError, match=message):
        backend.data.BatchMetaDataLoader(DATASETS["vectors"](), **options)


def test_a_seed_must_be_an_integer(backend):
    with pytest.raises(TypeError, match=r"`seed` must be an integer, got 0\.5"):
        backend.data.BatchMetaDataLoader(DATASETS["vectors"](), seed=0.5)
    with pytest.raises(ValueError, match="`position` must be a non-negative episode index, got -3"):
        backend.data.BatchMetaDataLoader(DATASETS["vectors"]()).seek(-3)


CHOOSERS = {"sampler": None, "batch_sampler": None, "collate_fn": None, "drop_last": False, "generator": None}


@pytest.mark.parametrize("name", CHOOSERS)
def test_torch_arguments_that_would_choose_episodes_are_refused(torch_kit, name):
    with pytest.raises(TypeError, match=f"`{name}` is not an argument here: `seed`, `start` and `shard` choose"):
        torch_kit.data.BatchMetaDataLoader(DATASETS["vectors"](), **{name: True})


def test_torch_arguments_spelled_out_choose_nothing(torch_kit):
    dataset = DATASETS["vectors"]()
    loader = torch_kit.data.BatchMetaDataLoader(dataset, 4, num_batches=5, seed=3, shuffle=True, **CHOOSERS)
    assert digests(torch_kit, loader) == expected_digests(dataset, seed=3)


def test_torch_arguments_that_would_reorder_episodes_are_refused(torch_kit):
    for name in ("shuffle", "in_order"):
        with pytest.raises(TypeError, match=f"`{name}=False` is not offered"):
            torch_kit.data.BatchMetaDataLoader(DATASETS["vectors"](), **{name: False})


def test_jax_has_no_arguments_of_a_torch_loader(jax_kit):
    with pytest.raises(TypeError, match="pin_memory"):
        jax_kit.data.BatchMetaDataLoader(DATASETS["vectors"](), pin_memory=True)


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 3, "prefetch_factor": 1}], ids=str)
def test_jax_threads_change_nothing_but_the_time(jax_kit, options):
    dataset = DATASETS["images"]()
    loader = jax_kit.data.BatchMetaDataLoader(dataset, 4, num_batches=5, seed=3, **options)
    assert digests(jax_kit, itertools.islice(loader, 2)) == expected_digests(dataset, num_batches=2, seed=3)
    assert loader.position == 8, "prefetched batches must not count"
    assert digests(jax_kit, loader) == expected_digests(dataset, num_batches=3, seed=3, start=8)
    with jax_kit.float64():
        assert next(iter(loader))["train"][1].dtype == np.int64, "modes belong to the thread that asks"


def test_jax_threads_gather_ahead_and_no_further(jax_kit):
    dataset = DATASETS["vectors"]()
    gathered = []
    whole = type(dataset).gather
    loader = jax_kit.data.BatchMetaDataLoader(dataset, 4, num_batches=9, seed=3, num_workers=2, prefetch_factor=2)
    loader.episodes.dataset.gather = lambda plan: gathered.append(plan) or whole(dataset, plan)
    batches = iter(loader)
    next(batches)
    batches.close()  # waits for the threads
    assert len(gathered) == 5


def test_a_failure_in_a_jax_thread_reaches_the_loop(jax_kit):
    loader = jax_kit.data.BatchMetaDataLoader(DATASETS["vectors"](), 4, num_batches=5, num_workers=2)
    loader.episodes.dataset.gather = lambda plan: 1 / 0
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        next(iter(loader))


# PyTorch's own loader


def test_the_torch_loader_is_a_data_loader(torch_kit):
    loader = torch_kit.data.BatchMetaDataLoader(DATASETS["images"](), 2, num_batches=3, num_workers=0, pin_memory=False)
    assert isinstance(loader, torch_kit.torch.utils.data.DataLoader)
    assert loader.num_workers == 0


# Workers are forked from a process of their own: JAX's threads and a fork do not go together.
WORKERS = """
import json
from backends.problems import PROBLEMS
from checkers import check_save_and_restore
from metabridge.episodes.batches import arrays_digest
from torch_backend.data import BatchMetaDataLoader, to_numpy

def identity(data):
    return arrays_digest(to_numpy(data))

digests = {}
dataset = PROBLEMS["images"].dataset()
for options in (
    {"num_workers": 0},
    {"num_workers": 1, "pin_memory": False},
    {"num_workers": 4},
    {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3},
):
    loader = BatchMetaDataLoader(dataset, 4, seed=0, num_batches=5, **options)
    digests[str(options)] = [identity(data) for _ in range(2) for data in loader]

def make(**options):
    return BatchMetaDataLoader(dataset, 2, num_batches=3, seed=4, num_workers=1, **options)

check_save_and_restore(make, identity)
check_save_and_restore(lambda: make(persistent_workers=True, prefetch_factor=4), identity)

left_early = make(persistent_workers=True, prefetch_factor=4)
next(iter(left_early))
assert left_early.position == 2, "prefetched batches must not count"
print(json.dumps(digests))
"""


def test_workers_change_nothing(torch_kit):
    tests = Path(__file__).parents[1]
    finished = run_python(WORKERS, PYTHONPATH=f"{ROOT}:{tests}")
    assert finished.returncode == 0, finished.stderr
    expected = expected_digests(DATASETS["images"](), num_batches=10, seed=0)
    found = json.loads(finished.stdout)
    assert len(found) == 4
    for options, each in found.items():
        assert each == expected, options


def test_a_spawned_worker_gets_the_dataset(torch_kit):
    loader = torch_kit.data.BatchMetaDataLoader(
        DATASETS["sinusoid"](), 4, seed=0, num_batches=5, num_workers=1, multiprocessing_context="spawn"
    )
    assert digests(torch_kit, loader) == expected_digests(DATASETS["sinusoid"](), seed=0)


@pytest.mark.parametrize("message", ["DataLoader worker (pid(s) 3) exited unexpectedly", "something else"])
def test_a_worker_that_died_is_explained(torch_kit, message):
    """A store that is cut short while it is mapped ends its readers, of which torch knows nothing."""

    def batches():
        yield 1
        raise RuntimeError(message)

    explained = torch_kit.data._explained(batches())
    assert next(explained) == 1
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}") as caught:
        next(explained)
    assert ("cut short" in str(caught.value)) == message.startswith("DataLoader worker")


def test_images_are_shared_by_the_table_and_not_changed(backend):
    """A backend may share memory with a batch, never with the source."""
    source = binary_images(28)
    before = source.examples.copy()
    (batch,) = backend.data.BatchMetaDataLoader(DATASETS["images"](), 2, num_batches=1)
    if backend.name == "torch":
        batch["train"][0].zero_()
    assert_identical(source.examples, before)
    assert math.isfinite(float(batch["train"][0].sum()))
