"""How near loading episodes comes to its limit: one indexed copy (contract C12).

`python benchmarks/loading.py` measures, side by side in one run, `EpisodeLoader` against the bare
`images[idx].astype(np.float32) / 255` of the same arrays: 5-way, 5 shots, 15 queries, 28×28, one process, no
threads. Both make the same arrays for the same episodes, checked before anything is timed. The bare copy is given
its indices; the loader must also draw them and label the examples. Every pair is timed in alternation, many
times, after a warm-up; the figures are medians, so a busy machine slows both sides alike. A ratio is the
loader's rate over the bare copy's: 1 is the limit, 0.5 what metabridge promises without rotations.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge import ClassSplitter, CombinationMetaDataset, EpisodeLoader
from metabridge.episodes.plans import EpisodePlan
from metabridge.sources import ArraySource
from metabridge.toy.helpers import sinusoid
from metabridge.transforms import Rotation

WAYS, SHOTS, TEST_SHOTS, CLASSES, EXAMPLES = 5, 5, 15, 1028, 20
BATCH_SIZES = (1, 4, 16, 64)
REQUIRED = 0.5


def images() -> npt.NDArray[np.uint8]:
    """Omniglot's meta-train set in size: 1028 classes of 20 images of 28×28×1, 16 MB."""
    return np.random.default_rng(0).integers(0, 256, (CLASSES * EXAMPLES, 28, 28, 1), dtype=np.uint8)


def dataset_over(examples: npt.NDArray[np.uint8], rotations: bool) -> CombinationMetaDataset:
    """5-way 5-shot 15-query episodes."""
    sizes = np.full(CLASSES, EXAMPLES)
    source = ArraySource(examples, np.cumsum(sizes) - sizes, sizes, [str(i) for i in range(CLASSES)])
    dataset = CombinationMetaDataset(
        source, WAYS, class_augmentations=[Rotation([90, 180, 270])] if rotations else None
    )
    ClassSplitter(dataset, num_train_per_class=SHOTS, num_test_per_class=TEST_SHOTS)
    return dataset


def bare_indices(plan: EpisodePlan) -> list[npt.NDArray[np.int64]]:
    """For every split the rows of `images` that the plan names, in the batch's order."""
    rows = (plan.classes % CLASSES)[:, :, None] * EXAMPLES + plan.examples
    return [rows[:, :, columns].reshape(len(plan), -1) for _, columns in plan.split_columns()]


def bare_batches(
    examples: npt.NDArray[np.uint8], indices: list[list[npt.NDArray[np.int64]]]
) -> Iterator[list[npt.NDArray[Any]]]:
    """The limit: one indexed copy for each set of each batch."""
    for batch in indices:
        yield [examples[rows].astype(np.float32) / 255 for rows in batch]


def seconds(start: Callable[[], Iterable[Any]]) -> float:
    """Time to take every item and keep none, as training does with batches."""
    begin = time.perf_counter()
    for _ in start():
        pass
    return time.perf_counter() - begin


def side_by_side(*starts: Callable[[], Iterable[Any]], repeats: int) -> list[float]:
    """Median time of each, run in alternation after a warm-up."""
    for start in starts:
        seconds(start)
    times = [[seconds(start) for start in starts] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def check_same(loader: EpisodeLoader, examples: npt.NDArray[np.uint8]) -> None:
    """Raise unless the loader without rotations and the bare copy make the same arrays."""
    for plan in loader.plans():
        batch = loader.dataset.gather(plan)
        for (inputs, _), expected in zip(
            batch.values(), next(bare_batches(examples, [bare_indices(plan)])), strict=True
        ):
            if not np.array_equal(inputs, expected):
                raise AssertionError("the loader and the bare copy disagree: this benchmark compares nothing")


def measure_images(episodes: int, repeats: int) -> bool:
    """Print the table of image episodes; returns whether the promise is kept."""
    examples = images()
    plain, turned = dataset_over(examples, rotations=False), dataset_over(examples, rotations=True)
    check_same(EpisodeLoader(plain, 4, 8), examples)
    print(f"{WAYS}-way {SHOTS}-shot {TEST_SHOTS}-query 28x28, episodes per second (ratio to the bare copy)\n")
    print(
        f"{'batch':>5} {'bare copy':>10} {'loader':>16} {'with rotations':>16} {'gather alone':>16} {'plan alone':>11}"
    )
    kept = True
    for batch_size in BATCH_SIZES:
        loader = EpisodeLoader(plain, batch_size, episodes // batch_size, seed=0)
        turning = EpisodeLoader(turned, batch_size, episodes // batch_size, seed=0)
        plans = list(loader.plans())
        indices = [bare_indices(plan) for plan in plans]
        times = side_by_side(
            partial(bare_batches, examples, indices),
            loader.__iter__,
            turning.__iter__,
            partial(map, plain.gather, plans),
            loader.plans,
            repeats=repeats,
        )
        count = len(plans) * batch_size
        bare, *others, planning = (count / each for each in times)
        cells = " ".join(f"{rate:>9,.0f} ({rate / bare:.2f})" for rate in others)
        print(f"{batch_size:>5} {bare:>10,.0f} {cells} {planning:>11,.0f}")
        kept &= others[0] / bare >= REQUIRED
    verdict = "kept" if kept else "NOT kept"
    print(f"\nThe promise, a ratio of at least {REQUIRED} for the loader at every batch size, is {verdict}.")
    print("A rotation costs a second copy of the turned images, three quarters of all of them.")
    return kept


def measure_sinusoid(episodes: int, repeats: int) -> None:
    """Print the rate of sinusoid episodes, against NumPy's own arithmetic on numbers that are already drawn."""
    batch_size = 25
    rng = np.random.default_rng(0)
    amplitude, phase = rng.uniform(0.1, 5, (batch_size, 1)), rng.uniform(0, math.pi, (batch_size, 1))

    def bare() -> Iterator[Any]:
        for _ in range(episodes // batch_size):
            x = rng.uniform(-5, 5, (batch_size, 20))
            yield x.astype(np.float32), (amplitude * np.sin(x - phase)).astype(np.float32)

    loaders = [
        EpisodeLoader(sinusoid(10, noise_std=noise_std), batch_size, episodes // batch_size, seed=0)
        for noise_std in (None, 0.1)
    ]
    times = side_by_side(bare, *(loader.__iter__ for loader in loaders), repeats=repeats)
    rates = [episodes // batch_size * batch_size / each for each in times]
    print(f"\nsinusoid, 10 + 10 points, batches of {batch_size}, episodes per second:")
    print(f"  loader {rates[1]:,.0f}, with noise {rates[2]:,.0f}; NumPy's generator and sine alone {rates[0]:,.0f}")
    print("  The loader draws addressable points and computes the same bits on every machine, which NumPy does not.")


def measure_import(repeats: int) -> None:
    """Print the time of `import metabridge`, of NumPy within it, and of starting Python."""

    def start(program: str) -> Iterator[Any]:
        yield subprocess.run([sys.executable, "-c", program], check=True)

    programs = [partial(start, statement) for statement in ("pass", "import numpy", "import metabridge")]
    bare, with_numpy, with_all = side_by_side(*programs, repeats=repeats)
    print(f"\nimport metabridge: {with_all - bare:.3f} s, of which NumPy {with_numpy - bare:.3f} s (limit 0.3 s)")


def main() -> int:
    """Measure everything; exit status 1 if the promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1024, help="episodes per timing (default: 1024)")
    parser.add_argument("--repeats", type=int, default=11, help="timings of each, of which the median counts")
    arguments = parser.parse_args()
    print(__doc__.partition("\n\n")[2])
    kept = measure_images(arguments.episodes, arguments.repeats)
    measure_sinusoid(10 * arguments.episodes, arguments.repeats)
    measure_import(arguments.repeats)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
