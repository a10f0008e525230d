"""The loader: one stream of episodes, whatever the batch size, the shards and the interruptions."""

import copy
import itertools
import json
import math
import pickle
import warnings

import numpy as np
import pytest
from checkers import check_save_and_restore
from helpers import coded_source
from hypothesis import given
from hypothesis import strategies as st

from metabridge import ClassSplitter, CombinationMetaDataset, EpisodeLoader
from metabridge.toy import Sinusoid
from metabridge.transforms import Categorical, Rotation

RULE = ClassSplitter(num_train_per_class=1, num_test_per_class=2)
SOURCE = coded_source([5] * 6)


def classification(**arguments):
    arguments = {"dataset_transform": RULE, "target_transform": Categorical(3)} | arguments
    return CombinationMetaDataset(SOURCE, 3, class_augmentations=[Rotation(90)], **arguments)


def regression(**arguments):
    return Sinusoid(6, noise_std=0.1, dataset_transform=RULE, **arguments)


DATASETS = {"classification": classification, "regression": regression}


@pytest.fixture(params=DATASETS)
def dataset(request):
    return DATASETS[request.param]()


def indices(batch):
    return batch.plan.indices.tolist()


def take(loader, count):
    return list(itertools.islice(loader, count))


# One stream


@given(
    name=st.sampled_from(list(DATASETS)),
    batch_size=st.integers(1, 7),
    num_batches=st.integers(1, 4),
    world=st.integers(1, 5),
    start=st.integers(0, 10**12),
    seed=st.integers(-3, 3),
)
def test_the_ranks_together_are_the_single_process_stream_in_order(name, batch_size, num_batches, world, start, seed):
    dataset = DATASETS[name]()
    ranks = [list(EpisodeLoader(dataset, batch_size, num_batches, seed, (rank, world), start)) for rank in range(world)]
    total = batch_size * num_batches * world
    single = dataset.episodes(range(start, start + total), seed)
    for rank, batches in enumerate(ranks):
        assert [len(batch.plan) for batch in batches] == [batch_size] * num_batches
        for split in single:
            for part, expected in enumerate(single[split]):
                received = np.concatenate([batch[split][part] for batch in batches])
                np.testing.assert_array_equal(received, expected[rank::world])
    at_step = [sorted(itertools.chain(*map(indices, step))) for step in zip(*ranks, strict=True)]
    assert list(itertools.chain(*at_step)) == list(range(start, start + total)), "all ranks advance together"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6, 12, 100, 300])
def test_the_batch_size_does_not_change_the_episodes(dataset, batch_size):
    """Sizes on both sides of the number of episodes that are planned at once."""
    num_batches = math.ceil(600 / batch_size)
    loader = EpisodeLoader(dataset, batch_size, num_batches, seed=1)
    plans = list(loader.plans())
    assert [len(plan) for plan in plans] == [batch_size] * num_batches
    reference = dataset.plan(1, range(batch_size * num_batches))
    for attribute in ("indices", "classes", "labels", "examples"):
        joined = np.concatenate([getattr(plan, attribute) for plan in plans])
        np.testing.assert_array_equal(joined, getattr(reference, attribute))


@pytest.mark.parametrize("world", [1, 3])
def test_shards_stay_apart_over_many_chunks_of_plans(dataset, world):
    ranks = [EpisodeLoader(dataset, 90, 7, shard=(rank, world), start=2).plans() for rank in range(world)]
    received = [np.concatenate([plan.indices for plan in plans]) for plans in ranks]
    for rank, found in enumerate(received):
        np.testing.assert_array_equal(found, 2 + rank + world * np.arange(630))


def test_plans_are_those_of_the_batches_and_do_not_move_the_position(dataset):
    loader = EpisodeLoader(dataset, 4, 5)
    plans = [plan.digest() for plan in loader.plans()]
    assert loader.position == 0
    assert [batch.plan.digest() for batch in loader] == plans
    assert loader.position == 20


def test_the_seed_is_the_dataset_s_unless_given(dataset):
    dataset.seed(4)
    by_dataset, by_argument = EpisodeLoader(dataset, 2, 2), EpisodeLoader(dataset, 2, 2, seed=4)
    assert [b.digest() for b in by_dataset] == [b.digest() for b in by_argument]
    assert EpisodeLoader(dataset, 2, 2, seed=0).episode_seed == 0, "a seed of 0 counts as given"


# Epochs and positions


def test_epochs_go_on_and_never_repeat(dataset):
    loader = EpisodeLoader(dataset, 2, 3, start=10)
    assert len(loader) == 3
    epochs = [[indices(batch) for batch in loader] for _ in range(3)]
    assert list(itertools.chain(*itertools.chain(*epochs))) == list(range(10, 28))
    assert loader.position == 28


def test_a_loop_left_early_goes_on_and_ends_where_the_epoch_would_have_ended(dataset):
    loader = EpisodeLoader(dataset, 2, 4, start=6)
    assert list(map(indices, take(loader, 1))) == [[6, 7]]
    assert list(map(indices, loader)) == [[8, 9], [10, 11], [12, 13]]
    assert list(map(indices, loader)) == [[14, 15], [16, 17], [18, 19], [20, 21]]


def test_seeking_makes_a_fixed_set_of_tasks(dataset):
    loader = EpisodeLoader(dataset, 3, 2, seed=9)
    first = [batch.digest() for batch in loader]
    loader.seek(0)
    assert [batch.digest() for batch in loader] == first
    loader.seek(600)
    assert list(map(indices, loader)) == [[600, 601, 602], [603, 604, 605]]


def test_an_endless_loader_has_no_end_and_no_length(dataset):
    loader = EpisodeLoader(dataset, 100, math.inf, start=3)
    batches = take(loader, 7)  # more than two chunks of plans
    assert list(itertools.chain(*map(indices, batches))) == list(range(3, 703))
    assert indices(next(iter(loader))) == list(range(703, 803))
    loader.seek(3)
    assert indices(next(iter(loader))) == list(range(3, 103))
    with pytest.raises(TypeError, match="this loader is endless; give `num_batches` a number to give it a length"):
        len(loader)


def test_there_is_nothing_before_the_start(dataset):
    loader = EpisodeLoader(dataset, 1, 4, start=13)
    for position in (0, 12):
        with pytest.raises(ValueError, match=f"`position` must be at least `start`, which is 13, got {position}"):
            loader.seek(position)
    assert loader.position == 13
    next(iter(loader))
    loader.seek(loader.start)
    assert list(map(indices, loader)) == [[13], [14], [15], [16]]


def test_positions_end_where_indices_do(dataset):
    for make in (lambda: EpisodeLoader(dataset, 1, 1, start=2**63), lambda: EpisodeLoader(dataset, 1, 1).seek(2**64)):
        with pytest.raises(ValueError, match=r"must be an episode index below 2\*\*63"):
            make()


# Save and restore


@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
@pytest.mark.parametrize(("batch_size", "num_batches"), [(1, 1), (2, 4), (3, 3)])
def test_a_loader_is_saved_and_restored_at_every_position(dataset, batch_size, num_batches, shard):
    def make():
        return EpisodeLoader(dataset, batch_size, num_batches, seed=2, shard=shard, start=5)

    check_save_and_restore(make, identity=lambda batch: batch.digest())


@given(
    stop=st.integers(0, 5),
    before=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    after=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    start=st.integers(0, 20),
)
def test_a_state_is_valid_for_another_batch_size_and_number_of_ranks(stop, before, after, start):
    dataset = regression()
    (size, world), (new_size, new_world) = before, after
    saved = EpisodeLoader(dataset, size, math.inf, 0, (world - 1, world), start)
    take(saved, stop)
    state = json.loads(json.dumps(saved.state_dict()))
    position = start + stop * size * world
    assert state["position"] == position
    ranks = []
    for rank in range(new_world):
        restored = EpisodeLoader(dataset, new_size, math.inf, 0, (rank, new_world), start)
        restored.load_state_dict(state)
        ranks.append(take(restored, 3))
    received = sorted(itertools.chain(*(indices(batch) for batch in itertools.chain(*ranks))))
    assert received == list(range(position, position + 3 * new_size * new_world))
    expected = dataset.episodes(ranks[-1][-1].plan.indices)
    assert ranks[-1][-1].digest() == expected.digest()


def test_positions_saved_in_the_loop_count_delivered_batches(dataset):
    """Plans are computed ahead; what was planned and not delivered does not count."""
    loader = EpisodeLoader(dataset, 2, 3, start=1)
    assert [loader.state_dict()["position"] for _ in loader] == [3, 5, 7]


CHANGES = {
    "seed": lambda dataset: dataset.seed(99),
    "the same seed": lambda dataset: dataset.seed(dataset.current_seed),
    "splitter": lambda dataset: ClassSplitter(dataset, num_train_per_class=1),
    "the same splitter, copied": lambda dataset: setattr(dataset, "dataset_transform", copy.copy(RULE)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_dataset_that_does_not_reach_a_loader_is_said(dataset, change):
    loader = EpisodeLoader(dataset, 2, 2)
    batches = iter(loader)
    next(batches)
    CHANGES[change](dataset)
    assert indices(next(batches)) == [2, 3], "a loop that runs goes on as it was"
    word = "splitter" if "splitter" in change else "seed"
    with pytest.raises(RuntimeError, match=rf"the meta-dataset was changed \({word}\) after this loader was made, wh"):
        next(iter(loader))
    assert len(list(EpisodeLoader(dataset, 2, 2))) == 2


def test_reading_a_dataset_is_no_change_of_it(dataset):
    loader = EpisodeLoader(dataset, 2, 2)
    dataset.sample_task()
    pickle.dumps((dataset.family, dataset.description, dataset.episodes([3], seed=8).digest()))
    copied = pickle.loads(pickle.dumps(loader))
    assert [batch.digest() for batch in loader] == [batch.digest() for batch in copied]
    assert list(map(indices, loader)) == [[4, 5], [6, 7]]


def test_noise_that_comes_later_is_a_change_too():
    dataset = regression()
    loader = EpisodeLoader(dataset, 2, 2, seed=0)
    dataset.noise_std = 0.5
    with pytest.raises(RuntimeError, match=r"the meta-dataset was changed \(noise_std\)"):
        next(iter(loader))


def test_a_loader_with_a_seed_of_its_own_lets_the_dataset_be_seeded():
    dataset = classification()
    loader = EpisodeLoader(dataset, 2, 1, seed=3)
    expected = dataset.episodes(range(2), seed=3).digest()
    dataset.seed(99)
    assert next(iter(loader)).digest() == expected


def test_a_seed_that_chooses_another_family_of_tasks_is_said_to_every_loader():
    dataset = regression()
    loader = EpisodeLoader(dataset, 2, 1, seed=3)
    dataset.seed(99)
    with pytest.raises(RuntimeError, match=r"was changed \(seed\)"):
        next(iter(loader))


# Loaders without a seed


REPEATS = "this loader repeats the episodes of an earlier one over the same tasks, "


@pytest.fixture
def no_loader_yet(monkeypatch):
    monkeypatch.setattr("metabridge.episodes.loader._unseeded", {})


def warnings_of(*datasets, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dataset in datasets:
            EpisodeLoader(dataset, 2, 1, **arguments)
    about = [each for each in caught if str(each.message).startswith(REPEATS)]
    assert len(about) == len(caught)
    return len(about)


@pytest.mark.parametrize("name", DATASETS)
def test_a_second_loader_without_a_seed_says_once_that_it_repeats_the_first(no_loader_yet, name):
    made = [DATASETS[name]() for _ in range(4)]
    assert warnings_of(made[0]) == 0
    assert warnings_of(made[1]) == 1
    assert warnings_of(made[2], made[0]) == 0
    assert len({next(iter(EpisodeLoader(each, 2, 1))).digest() for each in made}) == 1, "they do repeat it"
    other = DATASETS[name](meta_split="val")
    EpisodeLoader(other, 1, 1)
    with pytest.warns(UserWarning, match=REPEATS) as caught:
        EpisodeLoader(other, 1, 1)
    assert [each.filename for each in caught] == [__file__], "it points at the caller"


@pytest.mark.parametrize("name", DATASETS)
def test_loaders_that_repeat_nothing_or_mean_to_say_nothing(no_loader_yet, name):
    make = DATASETS[name]
    seeded = make()
    seeded.seed(0)
    splits = [make(meta_split=meta_split) for meta_split in ("val", "test")]
    assert warnings_of(make(), *splits, seeded, seeded) == 0
    assert warnings_of(make(), make(), seed=0) == 0


def test_more_points_of_the_same_tasks_are_the_same_tasks(no_loader_yet):
    assert warnings_of(Sinusoid(6, dataset_transform=RULE), Sinusoid(20, noise_std=1.0)) == 1


def test_a_loop_refuses_to_go_on_when_the_loader_was_moved(dataset):
    loader = EpisodeLoader(dataset, 1, 6)
    batches = iter(loader)
    next(batches)
    loader.seek(100)
    with pytest.raises(RuntimeError, match="moved from episode 1 to 100 inside a loop"):
        next(batches)
    assert indices(next(iter(loader))) == [100]


def test_a_state_is_json_whatever_integers_came_in(dataset):
    dataset.seed(np.int64(3))
    loader = EpisodeLoader(dataset, 2, 3, seed=np.int32(1), start=np.int64(4))
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()
    loader.seek(np.int32(6))
    assert json.loads(json.dumps(loader.state_dict()))["position"] == 6


OTHERS = {
    "seed": (lambda: EpisodeLoader(classification(), 2, 3, seed=1), "seed", "0", "1"),
    "start": (lambda: EpisodeLoader(classification(), 2, 3, start=8), "start", "0", "8"),
    "meta-split": (
        lambda: EpisodeLoader(classification(meta_split="val"), 2, 3),
        "episodes",
        "'meta_split': 'train'",
        "'meta_split': 'val'",
    ),
    "labels": (
        lambda: EpisodeLoader(classification(target_transform=None), 2, 3),
        "episodes",
        "'permuted_labels': True",
        "'permuted_labels': False",
    ),
    "splitter": (
        lambda: EpisodeLoader(classification(dataset_transform=ClassSplitter(num_train_per_class=2)), 2, 3),
        "episodes",
        r"\['train', 1\], \['test', 2\]",
        r"\[\['train', 2\]\]",
    ),
    "problem": (lambda: EpisodeLoader(regression(), 2, 3), "episodes", "'classification'", "'Sinusoid'"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_other_episodes_is_refused_with_both_sides_shown(other):
    make, field, theirs, ours = OTHERS[other]
    state = EpisodeLoader(classification(), 2, 3).state_dict() | {"position": 4}
    loader = make()
    before = loader.position
    message = (
        rf"its `{field}` differs\.\n  state:  .*{theirs}.*\n  loader: .*{ours}.*\nBuild the loader with the state's"
    )
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state)
    assert loader.position == before, "a refused state changes nothing"


def test_a_state_of_another_family_of_toy_tasks_is_refused():
    state = EpisodeLoader(regression(), 2, 3, seed=0).state_dict()
    dataset = regression()
    dataset.seed(1)
    with pytest.raises(ValueError, match=r"'family_seed': 0.*\n.*'family_seed': 1"):
        EpisodeLoader(dataset, 2, 3, seed=0).load_state_dict(state)


@pytest.mark.parametrize(("version", "got"), [(2, "2"), ("1", "'1'"), (None, "None")])
def test_a_state_of_another_version_is_refused(dataset, version, got):
    loader = EpisodeLoader(dataset, 2, 3)
    state = loader.state_dict() | {"version": version}
    with pytest.raises(ValueError, match=f"the loader state must be of version 1, got {got}"):
        loader.load_state_dict(state)


def test_what_is_no_state_is_refused(dataset):
    loader = EpisodeLoader(dataset, 2, 3)
    for state in (None, [], "state"):
        with pytest.raises(TypeError, match="`state` must be what `state_dict\\(\\)` returned, got"):
            loader.load_state_dict(state)
    with pytest.raises(ValueError, match="`position` must be a non-negative episode index, got -1"):
        loader.load_state_dict({key: value for key, value in loader.state_dict().items() if key != "position"})


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be a positive integer, got 0"),
        ({"batch_size": 2.0}, ValueError, "`batch_size` must be a positive integer, got 2.0"),
        ({"batch_size": True}, ValueError, "`batch_size` must be a positive integer, got True"),
        ({"num_batches": 0}, ValueError, "`num_batches` must be a positive integer, or math.inf .*, got 0"),
        ({"num_batches": 1.5}, ValueError, "`num_batches` must be a positive integer, or math.inf .*, got 1.5"),
        ({"num_batches": -math.inf}, ValueError, "got -inf"),
        ({"num_batches": True}, ValueError, "got True"),
        (
            {"shard": (1, 1)},
            ValueError,
            r"`shard` must be integers \(rank, world\) with 0 <= rank < world, got \(1, 1\)",
        ),
        ({"shard": (-1, 2)}, ValueError, r"0 <= rank < world, got \(-1, 2\)"),
        ({"shard": (0, 0)}, ValueError, r"0 <= rank < world, got \(0, 0\)"),
        ({"shard": (0.5, 2)}, ValueError, r"`shard` must be integers .*, got \(0\.5, 2\)"),
        ({"start": -1}, ValueError, "`start` must be a non-negative episode index, got -1"),
        ({"start": 1.0}, ValueError, "`start` must be a non-negative episode index, got 1.0"),
        ({"start": True}, ValueError, "`start` must be a non-negative episode index, got True"),
        ({"seed": 0.5}, TypeError, "`seed` must be an integer, got 0.5"),
        (
            {"seed": 2**2000},
            ValueError,
            "`seed` must be an integer of at most 1024 bits, got an integer of 2001 bits",
        ),
        ({"batch_size": 2**63}, ValueError, r"`batch_size` must be below 2\*\*31, got 9223372036854775808"),
        ({"shard": 4}, ValueError, r"`shard` must be integers .*, got 4"),
        ({"shard": (0, 1, 2)}, ValueError, r"`shard` must be integers .*, got \(0, 1, 2\)"),
        ({"shard": (0, 2**63)}, ValueError, r"`shard` must be integers .*, got \(0, 9223372036854775808\)"),
        (
            {"dataset": SOURCE},
            TypeError,
            "`dataset` must be a meta-dataset, got ArraySource; make tasks of a source with",
        ),
        ({"dataset": 3}, TypeError, "`dataset` must be a meta-dataset, got int; pass for example sinusoid"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(dataset, arguments, error, message):
    with pytest.raises(error, match=message):
        EpisodeLoader(**{"dataset": dataset, "batch_size": 2, "num_batches": 3, **arguments})


def test_the_last_episode_is_the_last(dataset):
    loader = EpisodeLoader(dataset, 2, 2, start=2**63 - 4)
    assert list(map(indices, loader))[-1] == [2**63 - 2, 2**63 - 1]
    with pytest.raises(ValueError, match=r"`position` must be an episode index below 2\*\*63, got 9223372036854775808"):
        next(iter(loader))


@pytest.mark.parametrize("position", [-1, 0.5, "3", None])
def test_seeking_nowhere_is_refused(dataset, position):
    loader = EpisodeLoader(dataset, 2, 3)
    with pytest.raises(ValueError, match="`position` must be a non-negative episode index, got "):
        loader.seek(position)


def test_a_loader_says_what_it_is(dataset):
    text = repr(EpisodeLoader(dataset, 2, 3, seed=4, shard=(1, 2), start=8))
    assert text.startswith(f"EpisodeLoader({dataset!r}, batch_size=2, num_batches=3, seed=4, shard=(1, 2), position=8")
