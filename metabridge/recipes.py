"""Recipes: how each benchmark is meta-trained unless the user says otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metabridge.configs import AlgorithmConfig, EpisodeConfig, ModelConfig, RunConfig
from metabridge.metadatasets import MetaDataset

__all__ = ["RECIPES", "Recipe", "make_meta_datasets", "make_run"]


@dataclass(frozen=True)
class Recipe:
    """Default choices for one benchmark.

    Attributes:
        ways: N, or `None` for regression.
        shots: support examples per class.
        test_shots: query examples per class.
        model: network without its number of outputs.
        hidden: widths or channels of its layers.
        input_shape: shape of one example.
        inner_lr: step size of the inner loop.
        meta_batch_size: tasks per meta-step.
        steps: meta-steps of a comparison that a person waits for.
        variants: variants of the benchmark, the default first; empty if there is only one.
        load: `(run, root, meta_split)` → meta-dataset.
    """

    ways: int | None
    shots: int
    test_shots: int
    model: str
    hidden: tuple[int, ...]
    input_shape: tuple[int, ...]
    inner_lr: float
    meta_batch_size: int
    steps: int
    variants: tuple[str, ...]
    load: Callable[[RunConfig, Path, str], MetaDataset]


def _load_sinusoid(run: RunConfig, root: Path, meta_split: str) -> MetaDataset:
    from metabridge.toy.helpers import sinusoid

    del root  # nothing is stored
    return sinusoid(run.episode.shots, test_shots=run.episode.test_shots, seed=run.seed, meta_split=meta_split)


def _load_omniglot(run: RunConfig, root: Path, meta_split: str) -> MetaDataset:
    from metabridge.datasets.helpers import omniglot

    episode = run.episode
    assert episode.ways is not None  # make_run gives classification its ways
    return omniglot(
        root,
        shots=episode.shots,
        ways=episode.ways,
        test_shots=episode.test_shots,
        seed=run.seed,
        meta_split=meta_split,
        variant=run.variant,
    )


RECIPES = {
    # Finn et al. 2017, section 5.1: K = 10, one inner step of 0.01, two hidden layers of 40; 25 tasks in their code.
    "sinusoid": Recipe(None, 10, 10, "mlp", (40, 40), (1,), 0.01, 25, 2000, (), _load_sinusoid),
    # Finn et al. 2017, appendix A.1: inner step of 0.4 for 5-way; there 32 tasks per meta-step.
    "omniglot": Recipe(
        5, 1, 15, "conv4", (64, 64, 64, 64), (28, 28, 1), 0.4, 16, 20, ("full", "small1", "small2"), _load_omniglot
    ),
}


def make_run(
    dataset: str = "sinusoid",
    variant: str | None = None,
    ways: int | None = None,
    shots: int | None = None,
    test_shots: int | None = None,
    algorithm: str = "maml",
    inner_steps: int = 1,
    inner_lr: float | None = None,
    meta_batch_size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> RunConfig:
    """The run of a benchmark's recipe with some choices replaced; `None` keeps the recipe's.

    Raises:
        ValueError: for an unknown benchmark or variant, ways for a regression, or a value out of range.
    """
    if dataset not in RECIPES:
        raise ValueError(f"`dataset` must be one of {', '.join(map(repr, RECIPES))}, got {dataset!r}.")
    recipe = RECIPES[dataset]
    if variant is not None and variant not in recipe.variants:
        known = f"one of {', '.join(map(repr, recipe.variants))}" if recipe.variants else "left out"
        raise ValueError(f"`variant` of {dataset} must be {known}, got {variant!r}.")
    if recipe.ways is None and ways is not None:
        raise ValueError(f"`ways` must be left out: {dataset} is a regression and has no classes, got {ways}.")
    ways = recipe.ways if ways is None else ways
    outputs = 1 if ways is None else ways
    return RunConfig(
        dataset=dataset,
        variant=variant or next(iter(recipe.variants), None),
        episode=EpisodeConfig(
            ways,
            recipe.shots if shots is None else shots,
            recipe.test_shots if test_shots is None else test_shots,
        ),
        model=ModelConfig(recipe.model, recipe.input_shape, outputs, recipe.hidden),
        algorithm=AlgorithmConfig(algorithm, inner_steps, recipe.inner_lr if inner_lr is None else inner_lr),
        meta_batch_size=recipe.meta_batch_size if meta_batch_size is None else meta_batch_size,
        steps=recipe.steps if steps is None else steps,
        seed=seed,
    )


def make_meta_datasets(run: RunConfig, root: str | Path) -> tuple[MetaDataset, MetaDataset]:
    """The meta-train and meta-test sets of a run; stored benchmarks lie below `root`."""
    load = RECIPES[run.dataset].load
    return load(run, Path(root), "train"), load(run, Path(root), "test")
