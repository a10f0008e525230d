"""Meta-datasets: an episode is a pure function of (configuration, seed, index); a task of (seed, class tuple)."""

import dataclasses
import itertools
import json
import math
import operator
import pickle
import tracemalloc

import numpy as np
import pytest
from helpers import coded_source, decode, every, run_python
from hypothesis import given
from hypothesis import strategies as st

from metabridge import ClassSplitter, CombinationMetaDataset, EpisodeBatch, Task
from metabridge.episodes.metadatasets import META_SPLITS, resolve_meta_split
from metabridge.sources import ArraySource, rename_classes
from metabridge.toy import Sinusoid
from metabridge.transforms import Categorical, Rotation

SOURCE = coded_source([12, 9, 15, 9, 10, 11, 12, 20])
RULE = ClassSplitter(num_train_per_class=2, num_test_per_class=3)


def combination(source=SOURCE, ways=3, rule=RULE, **arguments):
    return CombinationMetaDataset(source, ways, dataset_transform=rule, **arguments)


def features():
    rng = np.random.default_rng(0)
    return ArraySource.from_classes({str(c): rng.random((6, 4)) for c in range(5)})


MAKERS = {
    "plain": combination,
    "categorical": lambda: combination(target_transform=Categorical(3)),
    "augmented": lambda: combination(class_augmentations=[Rotation([90, 180, 270])], ways=5),
    "ordered": lambda: combination(rule=ClassSplitter(shuffle=False, num_train_per_class=1, num_test_per_class=4)),
    "meta-test": lambda: combination(meta_split="test"),
    "whole": lambda: combination(coded_source([6] * 5), rule=None),
    "features": lambda: combination(features()),
    "one way": lambda: combination(ways=1),
    "all ways": lambda: combination(ways=8),
    "sinusoid": lambda: Sinusoid(5, dataset_transform=RULE),
    "noisy sinusoid": lambda: Sinusoid(9, num_tasks=20, noise_std=0.3, dataset_transform=RULE),
}
CLASSIFYING = [name for name in MAKERS if "sinusoid" not in name]
CODED = [name for name in CLASSIFYING if name not in ("augmented", "features")]
"""Those whose examples say who they are; turned ones are looked at in test_transforms.py, features below."""


@pytest.fixture(params=MAKERS)
def dataset(request):
    return MAKERS[request.param]()


@pytest.fixture(params=CLASSIFYING)
def classifying(request):
    return MAKERS[request.param]()


def task_digest(task):
    """A task's arrays, whatever its splits, as a value."""
    parts = task.items() if isinstance(task, dict) else [("all", task)]
    return [(name, part.index, part.inputs.tobytes(), part.targets.tobytes()) for name, part in parts]


# An episode is a pure function


@given(
    st.sampled_from(list(MAKERS)),
    st.integers(-5, 5),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    st.data(),
)
def test_any_order_and_any_grouping_give_the_same_episodes(name, seed, indices, data):
    dataset = MAKERS[name]()
    together = dataset.episodes(indices, seed)
    order = data.draw(st.permutations(range(len(indices))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(indices)))) | {len(indices)})
    for first, last in itertools.pairwise([0, *cuts]):
        rows = order[first:last]
        group = MAKERS[name]().episodes([indices[i] for i in rows], seed)
        for split in together:
            for array, expected in zip(group[split], together[split], strict=True):
                np.testing.assert_array_equal(array, expected[rows])


def test_random_access_equals_reading_in_order(dataset):
    far = 10**15
    assert dataset.episodes([far + 3]).digest() == dataset.gather(dataset.plan(0, range(far, far + 5))[3:4]).digest()


def test_earlier_reading_changes_nothing(dataset):
    first = dataset.episodes(range(3), seed=1).digest()
    dataset.sample_task()
    dataset.episodes(range(100), seed=2)
    next(iter(dataset))
    assert dataset.episodes(range(3), seed=1).digest() == first


def test_every_configuration_seed_and_meta_split_has_episodes_of_its_own():
    digests = [make().episodes(range(3), seed).digest() for make in MAKERS.values() for seed in (0, 1)]
    digests.append(combination(meta_split="val").episodes(range(3)).digest())
    assert len(set(digests)) == len(digests)


def test_the_seed_of_the_dataset_is_the_default(dataset):
    dataset.seed(3)
    assert dataset.current_seed == 3
    assert dataset.episodes([4]).digest() == dataset.episodes([4], seed=3).digest()
    dataset.seed()
    assert dataset.current_seed == 0


def test_a_seed_that_is_no_integer_changes_nothing(dataset):
    dataset.seed(7)
    dataset.sample_task()
    second = task_digest(dataset.tasks_of(dataset.plan(7, [1])))
    for seed in (0.5, "1", True):
        with pytest.raises(TypeError, match="`seed` must be an integer"):
            dataset.seed(seed)
    assert dataset.current_seed == 7
    assert task_digest(dataset.sample_task()) == second


def test_pickling_keeps_every_episode_and_task(dataset):
    dataset.seed(2)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint == dataset.fingerprint
    assert copy.episodes(range(4)).digest() == dataset.episodes(range(4)).digest()
    index = tuple(range(dataset.num_classes_per_task)) if dataset.num_classes_per_task else 3
    assert task_digest(copy[index]) == task_digest(dataset[index])


# The batch


@pytest.mark.parametrize("name", CODED)
def test_a_batch_holds_the_examples_its_plan_names(name):
    batch = MAKERS[name]().episodes(range(10), seed=1)
    for split, columns in batch.plan.split_columns():
        classes, examples = decode(batch[split][0])
        chosen = batch.plan.examples[:, :, columns]
        np.testing.assert_array_equal(examples, chosen.reshape(10, -1))
        np.testing.assert_array_equal(classes, np.repeat(batch.plan.classes, chosen.shape[2], axis=1))


def test_arrays_have_the_promised_shapes_and_types(classifying):
    ways = classifying.num_classes_per_task
    batch = classifying.episodes(range(4))
    for name, shots in batch.plan.splits:
        inputs, targets = batch[name]
        assert inputs.shape == (4, ways * shots, *classifying.source.example_shape)
        assert targets.shape == (4, ways * shots)
        assert (inputs.dtype, targets.dtype) == (np.float32, np.int64)
        assert inputs.flags.c_contiguous
        np.testing.assert_array_equal(targets, np.repeat(batch.plan.labels, shots, axis=1))
        assert set(targets.ravel().tolist()) == set(range(ways))


def test_pixels_are_divided_by_255_in_float32(source):
    every = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    dataset = CombinationMetaDataset(ArraySource.from_classes({"all": every}), 1)
    inputs = dataset[(0,)].inputs
    expected = np.array([np.float32(value) / np.float32(255) for value in range(256)], dtype=np.float32)
    np.testing.assert_array_equal(inputs.ravel(), expected)
    assert inputs.min() == 0.0
    assert inputs.max() == 1.0


def test_features_are_cast_and_not_divided():
    source = features()
    dataset = combination(source)
    batch = dataset.episodes([0])
    class_id, example_id = batch.plan.classes[0, 1], batch.plan.examples[0, 1, 0]
    expected = source.gather(class_id, example_id).astype(np.float32)
    np.testing.assert_array_equal(batch["train"][0][0, 2], expected)


def test_a_batch_is_a_mapping_that_names_its_splits_when_asked_for_another(dataset):
    batch = dataset.episodes([0, 1])
    assert len(batch) == len(list(batch)) == len(batch.plan.splits)
    assert f"{type(batch).__name__}(2 episodes; " in repr(batch)
    with pytest.raises(KeyError, match=r"no split 'query'; this batch has '(train', 'test|all)'"):
        batch["query"]


def test_a_batch_s_digest_knows_every_bit_and_name(dataset):
    batch = dataset.episodes([0, 1])
    before = batch.digest()
    digests = [before, EpisodeBatch(batch.plan, {f"{name}2": arrays for name, arrays in batch.items()}).digest()]
    for array in itertools.chain.from_iterable(batch.values()):
        raw = array.reshape(-1).view(np.uint8)  # a batch belongs to the caller, who may write into it
        raw[-1] ^= 1
        digests.append(batch.digest())
        raw[-1] ^= 1
    assert len(set(digests)) == len(digests) == 2 + 2 * len(batch)
    assert batch.digest() == before


# Tasks by class tuple


def test_a_task_is_fixed_by_seed_and_class_tuple():
    for make in (MAKERS["plain"], MAKERS["categorical"]):
        dataset = make()
        first = task_digest(dataset[(3, 7, 1)])
        dataset.sample_task()
        assert task_digest(dataset[(3, 7, 1)]) == task_digest(dataset[[3, 7, 1]]) == first
        assert task_digest(make()[np.array([3, 7, 1])]) == first
        assert task_digest(dataset[(7, 3, 1)]) != first
        dataset.seed(1)
        assert task_digest(dataset[(3, 7, 1)]) != first
        dataset.seed(0)
        assert task_digest(dataset[(3, 7, 1)]) == first
        dataset.attach(ClassSplitter(num_train_per_class=2, num_test_per_class=3, random_state_seed=1))
        assert task_digest(dataset[(3, 7, 1)]) != first


def test_every_order_of_the_classes_is_a_task_of_its_own():
    plans = [combination().task_plan(index) for index in itertools.permutations((3, 7, 1))]
    assert len({plan.key for plan in plans}) == 6, "with a stream of its own"
    assert len({plan.examples.tobytes() for plan in plans}) == 6


def test_the_meta_split_makes_another_task():
    assert len({str(task_digest(combination(meta_split=split)[(3, 7, 1)])) for split in META_SPLITS}) == 3


def test_a_task_keeps_the_class_order_it_was_asked_for():
    tasks = combination(target_transform=Categorical(3))[(6, 0, 5)]
    mapping = {}
    for split, shots in (("train", 2), ("test", 3)):
        task = tasks[split]
        assert task.index == (6, 0, 5)
        classes, examples = decode(task.inputs)
        assert classes.tolist() == list(np.repeat([6, 0, 5], shots))
        for class_id, target, example in zip(classes, task.targets, examples, strict=True):
            assert mapping.setdefault(int(class_id), int(target)) == target
            assert example < SOURCE.class_sizes[class_id]
    assert sorted(mapping.values()) == [0, 1, 2]


def test_support_and_query_of_a_task_are_disjoint(classifying):
    plan = classifying.task_plan(tuple(range(classifying.num_classes_per_task)))
    for row in plan.examples[0]:
        assert len(set(row.tolist())) == len(row)


def test_the_task_of_a_tuple_is_not_an_episode():
    """Both depend on the seed, from streams of their own."""
    dataset = combination()
    plan = dataset.plan(0, [0])
    assert task_digest(dataset[tuple(plan.classes[0])]) != task_digest(dataset.tasks_of(plan))


BAD_INDICES = [
    (5, ValueError, r"tuple of 3 class ids, got 5; for a random task use .*sample_task.*`dataset.episodes\(indices"),
    (np.int64(5), ValueError, r"a task is addressed by a tuple of 3 class ids, got np\.int64\(5\)"),
    ((1, 2), ValueError, r"a tuple of 3 class ids, got \(1, 2\)"),
    ((1, 2, 3, 4), ValueError, r"a tuple of 3 class ids, got \(1, 2, 3, 4\)"),
    ((), ValueError, r"a tuple of 3 class ids, got \(\)"),
    ((1, 2, 1), ValueError, r"the classes of a task must be distinct, got \(1, 2, 1\)"),
    ((1, 2, 8), IndexError, r"class ids must lie in \[0, 8\), got \(1, 2, 8\)"),
    ((1, -1, 3), IndexError, r"class ids must lie in \[0, 8\), got \(1, -1, 3\)"),
    ((1.0, 2, 3), TypeError, "'float' object cannot be interpreted as an integer"),
    ("371", TypeError, "'str' object cannot be interpreted as an integer"),
]


@pytest.mark.parametrize(("index", "error", "message"), BAD_INDICES)
def test_what_addresses_no_task_is_refused(index, error, message):
    with pytest.raises(error, match=message):
        combination()[index]


# All tasks


@pytest.mark.parametrize("ways", [1, 2, 5])
def test_iteration_goes_through_all_combinations_in_order(ways):
    dataset = combination(coded_source([5] * 5), ways)
    indices = [task["train"].index for task in dataset]
    assert indices == list(itertools.combinations(range(5), ways))
    assert len(indices) == dataset.num_tasks == len(dataset)


def test_iteration_yields_the_tasks_of_the_tuples():
    dataset = combination(coded_source([5] * 4), 2)
    for task in dataset:
        assert task_digest(task) == task_digest(dataset[task["test"].index])


def test_the_number_of_tasks_is_exact_and_iteration_builds_no_list():
    dataset = combination(coded_source([5] * 100, side=2), 10)
    assert dataset.num_tasks == len(dataset) == 17_310_309_456_440
    tracemalloc.start()
    firsts = list(itertools.islice(dataset, 3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [task["train"].index[-1] for task in firsts] == [9, 10, 11]
    assert peak < 1_000_000
    wide = combination(coded_source([5] * 200, side=2), 100)
    assert wide.num_tasks == math.comb(200, 100) > 2**190


def test_sampled_tasks_are_the_episodes_of_the_seed_in_order(dataset):
    for seed in (0, 5):
        dataset.seed(seed)
        for index in range(4):
            assert task_digest(dataset.sample_task()) == task_digest(dataset.tasks_of(dataset.plan(seed, [index])))
    dataset.seed(5)
    assert task_digest(dataset.sample_task()) == task_digest(dataset.tasks_of(dataset.plan(5, [0]))), "seeding restarts"


# A task as a data set


def test_a_task_is_a_map_style_dataset(classifying):
    splits = classifying.sample_task()
    splits = splits if isinstance(splits, dict) else {"all": splits}
    ways = classifying.num_classes_per_task
    for task in splits.values():
        assert isinstance(task, Task)
        assert (task.num_classes, len(task) % ways) == (ways, 0)
        for i in (0, len(task) - 1, -1):
            example, target = task[i]
            assert example.shape == classifying.source.example_shape
            assert example.dtype == np.float32
            assert type(target) is int
            np.testing.assert_array_equal(example, task.inputs[i])
            assert target == task.targets[i]
        assert len(list(task)) == len(task), "the old iteration protocol must end"
        with pytest.raises(IndexError, match=f"index {len(task)} is out of bounds"):
            task[len(task)]
        assert repr(task) == f"Task(index={task.index}, num_classes={ways}, {len(task)} examples)"


def test_without_a_splitter_a_task_has_all_examples():
    task = MAKERS["whole"]()[(4, 0, 2)]
    classes, examples = decode(task.inputs)
    assert classes.tolist() == list(np.repeat([4, 0, 2], 6))
    assert examples.tolist() == list(range(6)) * 3
    assert task.targets.tolist() == list(np.repeat([0, 1, 2], 6))


def test_uneven_classes_need_a_splitter():
    dataset = combination(rule=None)
    message = r"without a splitter all classes must have the same number of examples, got 9 to 20; attach one with Cl"
    for read in (lambda: dataset[(0, 1, 2)], lambda: dataset.episodes([0]), dataset.sample_task):
        with pytest.raises(ValueError, match=message):
            read()


# Construction


@pytest.mark.parametrize(
    ("ways", "error", "message"),
    [
        (9, ValueError, "between 1 and the number of classes, which is 8 in meta-split 'train', got 9; ask for fewer"),
        (0, ValueError, "between 1 and the number of classes, which is 8 .*, got 0"),
        (-1, ValueError, "got -1"),
        (2.0, TypeError, "`num_classes_per_task` must be an integer, got 2.0; pass for example 5"),
        (True, TypeError, "must be an integer, got True"),
        (None, TypeError, "must be an integer, got None"),
    ],
)
def test_impossible_ways_are_refused(ways, error, message):
    with pytest.raises(error, match=message):
        combination(ways=ways)


def test_augmented_classes_count_as_classes():
    assert combination(ways=16, class_augmentations=[Rotation(90)]).num_tasks == 1
    with pytest.raises(ValueError, match=r"which is 16 .* got 17"):
        combination(ways=17, class_augmentations=[Rotation(90)])


@pytest.mark.parametrize("name", META_SPLITS)
def test_a_meta_split_has_two_ways_to_be_named(name):
    assert resolve_meta_split(meta_split=name) == name
    assert resolve_meta_split(**{f"meta_{name}": True}) == name
    assert resolve_meta_split(**{f"meta_{name}": True}, meta_split=name) == name


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({}, "none"),
        ({"meta_train": True, "meta_test": True}, "'train', 'test'"),
        ({"meta_train": True, "meta_split": "val"}, "'train', 'val'"),
        ({"meta_split": "validation"}, "'validation'"),
    ],
)
def test_no_meta_split_or_several_are_refused(arguments, got):
    with pytest.raises(ValueError, match=f"exactly one of `meta_train`, `meta_val`, `meta_test` .*; got {got}"):
        resolve_meta_split(**arguments)


def test_a_meta_dataset_refuses_an_unknown_meta_split():
    with pytest.raises(ValueError, match="got 'dev'"):
        combination(meta_split="dev")


# What is given to a meta-dataset


def test_a_splitter_is_attached_by_assignment_too():
    dataset = combination(rule=None)
    for name, rule in (("dataset_transform", RULE), ("splitter", ClassSplitter(num_train_per_class=1))):
        setattr(dataset, name, rule)
        assert dataset.splitter is dataset.dataset_transform is rule
        assert dataset.episodes([0]).digest() == combination(rule=rule).episodes([0]).digest()
    dataset.dataset_transform = None
    assert dataset.splitter is None


def test_labels_are_permuted_by_assignment_too():
    dataset = combination()
    dataset.target_transform = Categorical(3)
    assert dataset.fingerprint == combination(target_transform=Categorical(3)).fingerprint


WRONG = [
    (
        "dataset_transform",
        5,
        TypeError,
        "`dataset_transform` must be a splitter or None, got 5; pass for example Class",
    ),
    ("splitter", Categorical(3), TypeError, "`dataset_transform` must be a splitter or None, got"),
    ("dataset_transform", ClassSplitter(num_train_per_class=10), ValueError, "need 10 examples of every class"),
    ("target_transform", str.upper, TypeError, "`target_transform` must be a Categorical or None, got"),
    ("target_transform", Categorical(4), ValueError, "4"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG)
def test_what_does_not_fit_is_refused_when_it_is_given_and_when_it_is_assigned(name, value, error, message):
    dataset = combination()
    before = dataset.description
    with pytest.raises(error, match=message):
        setattr(dataset, name, value)
    assert dataset.description == before
    if name != "splitter":
        with pytest.raises(error, match=message):
            CombinationMetaDataset(SOURCE, 3, **{name: value})


@pytest.mark.parametrize(
    "name", ["source", "query_source", "class_augmentations", "transforms", "transform", "meta_split"]
)
def test_what_cannot_be_changed_says_so(name):
    dataset = combination()
    with pytest.raises(
        AttributeError, match=rf"`{name}` of a meta-dataset is fixed; make another meta-dataset with it"
    ):
        setattr(dataset, name, getattr(dataset, name))
    assert dataset.fingerprint == combination().fingerprint


def test_regression_has_no_labels_to_permute():
    with pytest.raises(TypeError, match="`target_transform` must be None for regression"):
        Sinusoid(5).target_transform = Categorical(3)


# Plans of other meta-datasets

REORDERED = SOURCE.select([0, 1, 2, 3, 4, 5, 7, 6])
OTHER_CLASSES = {
    "other classes": lambda: combination(coded_source([12] * 8)),
    "another order": lambda: combination(REORDERED),
    "other names": lambda: combination(rename_classes(SOURCE, str.upper)),
    "fewer classes": lambda: combination(SOURCE.select(range(7))),
    "other augmentations": lambda: combination(class_augmentations=[Rotation(180)]),
    "a query source": lambda: combination(query_source=coded_source([12] * 8)),
    "a toy": lambda: Sinusoid(5, dataset_transform=RULE),
}


@pytest.mark.parametrize("other", OTHER_CLASSES)
def test_a_plan_of_another_meta_dataset_is_refused(other):
    one, other = combination(class_augmentations=[Rotation(90)]), OTHER_CLASSES[other]()
    for dataset, plan in ((one, other.plan(0, range(3))), (other, one.plan(0, range(3)))):
        with pytest.raises(ValueError, match=r"`plan` must be of this meta-dataset, .*made by one of other tasks"):
            dataset.gather(pickle.loads(pickle.dumps(plan)))


def test_a_plan_is_gathered_by_any_meta_dataset_over_the_same_classes():
    """Splits, labels, transforms and the form of the examples are not what its ids mean."""
    bright = ArraySource(SOURCE.examples | 1, SOURCE.class_starts, SOURCE.class_sizes, SOURCE.class_names)
    plan = combination().plan(0, range(3))
    for dataset in (combination(rule=None), combination(bright), combination(target_transform=Categorical(3))):
        assert dataset.gather(plan)["train"][0].shape == (3, 6, 6, 6, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 7}, r"`class_ids` must lie in \[0, 8\), got 7 to 1\d"),
        ({"classes": -8}, r"`class_ids` must lie in \[0, 8\), got -\d to -1"),
        ({"examples": 9}, "`example_ids` must lie in the class, got "),
        ({"examples": -9}, r"`example_ids` must lie in the class, got -\d"),
    ],
)
def test_a_plan_made_by_hand_is_held_against_the_classes(changes, message):
    """An example beyond a class is one of the next class."""
    plan = combination(ways=8).plan(0, range(20))
    wrong = {name: getattr(plan, name) + by for name, by in changes.items()}
    with pytest.raises(IndexError, match=message):
        combination(ways=8).gather(dataclasses.replace(plan, family="", **wrong))


@pytest.mark.parametrize("by", [16, -16])
def test_a_plan_made_by_hand_names_no_augmentation_that_is_not_there(by):
    """Its images would be served without one."""
    dataset = combination(class_augmentations=[Rotation(90)])
    plan = dataset.plan(0, range(20))
    with pytest.raises(IndexError, match=r"`plan` must name classes in \[0, 16\), got "):
        dataset.gather(dataclasses.replace(plan, family="", classes=plan.classes + by))


def test_features_that_float32_cannot_hold_are_refused():
    for value in (1e300, -1e39):
        source = ArraySource.from_classes({str(c): np.full((6, 4), value * (c == 3)) for c in range(5)})
        with pytest.raises(ValueError, match=r"`examples` must fit float32, got float64 features of up to 1e\+3"):
            combination(source).episodes(range(9))
    large = ArraySource.from_classes({str(c): np.full((6, 4), [3e38, np.inf, np.nan, -3e38]) for c in range(5)})
    assert np.isinf(combination(large).episodes(range(9))["train"][0]).sum() == 9 * 6


# The fingerprint


def test_descriptions_are_json_and_fingerprints_tell_all_configurations_apart():
    datasets = [make() for make in MAKERS.values()]
    for dataset in datasets:
        assert json.loads(json.dumps(dataset.description)) == dataset.description
    assert len({dataset.fingerprint for dataset in datasets}) == len(datasets)
    assert combination().fingerprint == combination().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"ways": 4},
        {"meta_split": "val"},
        {"target_transform": Categorical(3)},
        {"class_augmentations": [Rotation(90)]},
        {"rule": ClassSplitter(num_train_per_class=3, num_test_per_class=2)},
        {"rule": ClassSplitter(num_support_per_class=2, num_query_per_class=3)},
        {"rule": ClassSplitter(shuffle=False, num_train_per_class=2, num_test_per_class=3)},
        {"rule": ClassSplitter(num_train_per_class=2, num_test_per_class=3, random_state_seed=1)},
        {"source": SOURCE.select([0, 1, 2, 3, 4, 5, 7, 6])},
    ],
    ids=str,
)
def test_what_changes_episodes_changes_the_fingerprint(change):
    assert combination(**change).fingerprint != combination().fingerprint
    assert combination(**change).episodes(range(8)).digest() != combination().episodes(range(8)).digest()


EPISODES = """
import sys
sys.path.extend(sys.argv[1:])
from test_metadatasets import MAKERS
print([make().episodes(range(5), seed=3).digest() for make in MAKERS.values()])
"""


def test_another_process_sees_the_same_episodes(request):
    here = [make().episodes(range(5), seed=3).digest() for make in MAKERS.values()]
    result = run_python(EPISODES, request.path.parent, request.path.parents[1], PYTHONHASHSEED="random")
    assert result.stdout.strip() == str(here), result.stderr


def test_indices_of_a_task_are_plain_integers():
    task = combination().sample_task()["train"]
    assert every(type(c) is int for c in task.index)
    assert operator.index(Sinusoid(3).sample_task().index) >= 0
