"""Recipes: the usual meta-training of each benchmark.

A comment says whether a recipe's numbers are a paper's or ours. Steps are always ours: enough to compare two backends
on a CPU in some minutes, and far fewer than the tens of thousands behind published accuracies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from metabridge.checks import check_choice, require
from metabridge.configs import (
    AlgorithmConfig,
    EpisodeConfig,
    ModelConfig,
    OptimiserConfig,
    RunConfig,
    algorithm_record,
)
from metabridge.datasets.catalogue import BENCHMARKS, TOYS, load, load_toy
from metabridge.datasets.own import few_shot
from metabridge.datasets.stores import check_dataset, own_store, own_store_path
from metabridge.episodes.metadatasets import CombinationMetaDataset, MetaDataset
from metabridge.networks.tables import NETWORKS
from metabridge.sources import ClassSource, HDF5Source, split_classes
from metabridge.sources.splits import USUAL_FRACTIONS

__all__ = [
    "RECIPES",
    "WITHOUT_RECIPE",
    "Recipe",
    "make_meta_datasets",
    "make_run",
    "own_recipe",
]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Default choices for one benchmark.

    Attributes:
        ways: N, or `None` for the regressions of the toy problems.
        shots: support examples per class.
        test_shots: query examples per class.
        model: network without its number of outputs.
        hidden: widths or channels of its layers.
        input_shape: shape of one example.
        inner_steps: gradient steps of the inner loop.
        inner_lr: step size of the inner loop.
        meta_batch_size: tasks per meta-step.
        steps: meta-steps of a comparison, few enough to wait for.
        arguments: further arguments of a stored benchmark's helper.
    """

    ways: int | None = 5
    shots: int = 1
    test_shots: int = 15
    model: str
    hidden: tuple[int, ...]
    input_shape: tuple[int, ...]
    inner_steps: int = 1
    inner_lr: float
    meta_batch_size: int
    steps: int
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _images(input_shape: tuple[int, ...], steps: int) -> Recipe:
    """Mini-ImageNet's in Finn et al. 2017, appendix A.1: five inner steps of 0.01, 4 tasks, 15 queries, 32 filters."""
    return Recipe(
        model="conv4",
        hidden=(32,) * 4,
        input_shape=input_shape,
        inner_steps=5,
        inner_lr=0.01,
        meta_batch_size=4,
        steps=steps,
    )


def _digits(input_shape: tuple[int, ...], steps: int) -> Recipe:
    """Ours, no paper has one: Omniglot's inner loop, as this too is ink, and Mini-ImageNet's 32 filters and 4 tasks."""
    return Recipe(
        model="conv4",
        hidden=(32,) * 4,
        input_shape=input_shape,
        inner_lr=0.4,
        meta_batch_size=4,
        steps=steps,
    )


def _vectors(features: int, inner_lr: float, **arguments: Any) -> Recipe:
    """Ours, no paper has one. Some plants have 15 leaves; with at least 15 examples there are 24/12/7 chords."""
    return Recipe(
        shots=5,
        test_shots=10,
        model="mlp",
        hidden=(64, 64),
        input_shape=(features,),
        inner_lr=inner_lr,
        meta_batch_size=16,
        steps=500,
        arguments=arguments,
    )


RECIPES = {
    # Finn et al. 2017, section 5.1: K = 10, one inner step of 0.01, two hidden layers of 40; 25 tasks in their code.
    "sinusoid": Recipe(
        ways=None,
        shots=10,
        test_shots=10,
        model="mlp",
        hidden=(40, 40),
        input_shape=(1,),
        inner_lr=0.01,
        meta_batch_size=25,
        steps=2000,
    ),
    # Ours. MAML learns next to nothing here in minutes: wider and deeper ones also stayed at the 1.0 of predicting 0.
    "harmonic": Recipe(
        ways=None,
        shots=10,
        test_shots=10,
        model="mlp",
        hidden=(40, 40),
        input_shape=(1,),
        inner_lr=0.01,
        meta_batch_size=25,
        steps=500,
    ),
    # Finn et al. 2018 as re-implementations give it: 5 shots, five inner steps of 0.001, three layers of 100, 25 tasks.
    "sinusoid_and_line": Recipe(
        ways=None,
        shots=5,
        test_shots=10,
        model="mlp",
        hidden=(100, 100, 100),
        input_shape=(1,),
        inner_steps=5,
        inner_lr=0.001,
        meta_batch_size=25,
        steps=500,
    ),
    # Finn et al. 2017, appendix A.1: inner step of 0.4 for 5-way; there 32 tasks per meta-step.
    "omniglot": Recipe(
        model="conv4",
        hidden=(64,) * 4,
        input_shape=(28, 28, 1),
        inner_lr=0.4,
        meta_batch_size=16,
        steps=20,
    ),
    "miniimagenet": _images((84, 84, 3), steps=10),
    # Ours: MAML's published result here (run by Liu et al. 2019) comes without its settings.
    "tieredimagenet": _images((84, 84, 3), steps=10),
    # Bertinetto et al. 2019 ran MAML with 32 filters, Devos's re-run says with the settings of Mini-ImageNet.
    "cifar_fs": _images((32, 32, 3), steps=20),
    # Ours, as CIFAR-FS: the same photographs.
    "fc100": _images((32, 32, 3), steps=20),
    # Chen et al. 2019 in their code: five inner steps of 0.01 and 4 tasks; there 64 filters, ours are 32 to be quicker.
    "cub": _images((84, 84, 3), steps=10),
    "doublemnist": _digits((64, 64, 1), steps=20),
    "triplemnist": _digits((84, 84, 1), steps=20),
    "letter": _vectors(16, 0.1),
    "plants_margin": _vectors(64, 0.4, process_features=True),
    "plants_shape": _vectors(64, 0.1, process_features=True),
    "plants_texture": _vectors(64, 0.4, process_features=True),
    "bach": _vectors(29, 0.4),
}

_QUICK_STEPS = 2
_QUICK_EPISODES = 20
"""Fewest meta-steps and most test episodes of a quick run."""

WITHOUT_RECIPE = {
    "pascal5i": "it is segmentation, and `compare` takes classification and regression",
}
"""Benchmark of the library that cannot be compared → why."""


def own_recipe(path: str | Path) -> Recipe:
    """The recipe for a store of one's own: Conv4 with 32 filters for images, two hidden layers of 64 for vectors.

    Tasks have five classes, one support example and 15 query examples of each, or as many as the store has.

    Raises:
        FileNotFoundError: if there is no store at `path`.
        ValueError: for a store of fewer classes or examples than tasks need, or of examples of other shapes.
    """
    source = HDF5Source(path)
    shape, examples = source.example_shape, int(source.class_sizes.min())
    classes = min(len(part.class_sizes) for part in _own_parts(source).values())
    enough = classes >= 2 and examples >= 2
    wanted = "a store of at least ten classes of two examples, of which a fifth are meta-test"
    require(enough, "dataset", wanted, f"{len(source)} classes, the smallest of {examples} examples, in {path}")
    require(len(shape) in (1, 3), "dataset", "a store of images or vectors", f"examples of shape {shape} in {path}")
    usual = _images(shape, steps=20) if len(shape) == 3 else _vectors(shape[0], 0.1)
    return replace(usual, ways=min(5, classes), shots=1, test_shots=min(15, examples - 1))


def _own_parts(source: ClassSource) -> dict[str, ClassSource]:
    return split_classes(source, fractions=USUAL_FRACTIONS)


def make_run(
    dataset: str = "sinusoid",
    variant: str | None = None,
    *,
    root: str | Path = "data",
    ways: int | None = None,
    shots: int | None = None,
    test_shots: int | None = None,
    algorithm: str = "maml",
    inner_steps: int | None = None,
    inner_lr: float | None = None,
    first_order: bool | None = None,
    network: str | None = None,
    hidden: tuple[int, ...] | None = None,
    meta_optimiser: str = "adam",
    meta_lr: float | None = None,
    meta_batch_size: int | None = None,
    steps: int | None = None,
    test_episodes: int = 200,
    quick: bool = False,
    seed: int = 0,
) -> RunConfig:
    """The run of a benchmark's recipe, with some choices replaced; `None` keeps the recipe's choice.

    Args:
        dataset: name of a benchmark, or of a store of one's own below `root`.
        variant: variant of a stored benchmark.
        root: folder of the stores.
        ways: N, classes per task.
        shots: support examples per class.
        test_shots: query examples per class.
        algorithm: one of `metabridge.configs.ALGORITHMS`.
        inner_steps: steps of the inner loop, for algorithms that have one.
        inner_lr: step size of the inner loop.
        first_order: leave the second derivatives out, for algorithms that have them.
        network: one of `metabridge.networks.tables.NETWORKS`.
        hidden: widths of the network's layers.
        meta_optimiser: optimiser of the outer loop, `"adam"` or `"sgd"`.
        meta_lr: step size of the outer loop.
        meta_batch_size: tasks per meta-step.
        steps: meta-steps.
        test_episodes: episodes of the evaluation after the run.
        quick: a tenth of the recipe's meta-steps, at least 2, unless `steps` is given, and at most
            20 test episodes.
        seed: decides the episodes and the initial parameters.

    Raises:
        ValueError: for an unknown benchmark, variant, algorithm or network, ways for a regression, a choice that the
            algorithm does not have, or a value out of range.
    """
    if dataset in WITHOUT_RECIPE:
        raise ValueError(f"`dataset` {dataset} cannot be compared: {WITHOUT_RECIPE[dataset]}; choose another one.")
    own = own_store(dataset, root)
    if own is None:
        check_dataset(dataset, RECIPES, root)
    recipe = RECIPES[dataset] if own is None else own_recipe(own)
    if recipe.ways is None and ways is not None:
        raise ValueError(f"`ways` must be left out: {dataset} is a regression and has no classes, got {ways}.")
    ways = recipe.ways if ways is None else ways
    chosen = _algorithm(
        algorithm,
        asked={"inner_steps": inner_steps, "inner_lr": inner_lr, "first_order": first_order},
        usual={"inner_steps": recipe.inner_steps, "inner_lr": recipe.inner_lr},
    )
    outputs = 1 if ways is None else ways
    return RunConfig(
        dataset=dataset,
        variant=_variant(dataset, variant, own is not None),
        episode=EpisodeConfig(
            ways,
            recipe.shots if shots is None else shots,
            recipe.test_shots if test_shots is None else test_shots,
        ),
        model=_network(recipe, network, hidden, None if chosen.embeds else outputs),
        algorithm=chosen,
        optimiser=OptimiserConfig(meta_optimiser, *(() if meta_lr is None else (meta_lr,))),
        meta_batch_size=recipe.meta_batch_size if meta_batch_size is None else meta_batch_size,
        steps=steps if steps is not None else max(_QUICK_STEPS, recipe.steps // 10) if quick else recipe.steps,
        test_episodes=min(test_episodes, _QUICK_EPISODES) if quick else test_episodes,
        seed=seed,
    )


def _algorithm(name: str, asked: Mapping[str, Any], usual: Mapping[str, Any]) -> AlgorithmConfig:
    """The record of an algorithm: the usual choices, replaced where others were asked for."""
    record = algorithm_record(name)
    known = {choice.name for choice in fields(record)}
    for choice, value in asked.items():
        if value is not None and choice not in known:
            has = ", ".join(sorted(known)) or "no choices"
            raise ValueError(f"`{choice}` must be left out: {record.title} has {has}, got {value!r}.")
    choices = {**usual, **{choice: value for choice, value in asked.items() if value is not None}}
    return record(**{choice: value for choice, value in choices.items() if choice in known})


def _network(recipe: Recipe, network: str | None, hidden: tuple[int, ...] | None, outputs: int | None) -> ModelConfig:
    name = recipe.model if network is None else network
    check_choice(name, "network", NETWORKS)
    widths = recipe.hidden if name == recipe.model else NETWORKS[name].widths
    return ModelConfig(name, recipe.input_shape, outputs, widths if hidden is None else hidden)


def _variant(dataset: str, variant: str | None, is_own: bool) -> str | None:
    if dataset not in BENCHMARKS:
        if variant is not None:
            reason = "it is your own" if is_own else "it is computed, not stored"
            raise ValueError(f"`variant` of {dataset} must be left out: {reason}, got {variant!r}.")
        return None
    name = BENCHMARKS[dataset].variant_name(variant)
    return name if len(BENCHMARKS[dataset].variants) > 1 else None


def make_meta_datasets(run: RunConfig, root: str | Path) -> tuple[MetaDataset, MetaDataset]:
    """The meta-train and meta-test sets of a run; stores lie below `root`.

    Of a store of one's own 60 % of the classes are meta-train and 20 % meta-test.
    """
    if run.dataset in TOYS:
        return _load_toy(run, "train"), _load_toy(run, "test")
    if run.dataset in BENCHMARKS:
        return _load_stored(run, root, "train"), _load_stored(run, root, "test")
    parts = _load_own(run, root)
    return parts["train"], parts["test"]


def _load_toy(run: RunConfig, meta_split: str) -> MetaDataset:
    return load_toy(run.dataset, run.episode.shots, run.episode.test_shots, meta_split, run.seed)


def _load_own(run: RunConfig, root: str | Path) -> dict[str, CombinationMetaDataset]:
    episode = run.episode
    path = own_store_path(run.dataset, root)
    return few_shot(HDF5Source(path), episode.ways or 0, episode.shots, episode.test_shots, seed=run.seed)


def _load_stored(run: RunConfig, root: str | Path, meta_split: str) -> MetaDataset:
    episode = run.episode
    return load(
        BENCHMARKS[run.dataset],
        root,
        run.variant,
        episode.ways,
        shots=episode.shots,
        test_shots=episode.test_shots,
        seed=run.seed,
        meta_split=meta_split,
        **RECIPES[run.dataset].arguments,
    )
