"""The bits that metabridge promises: computed here, compared with `episodes.json`, which changes only with the scheme.

`python tests/golden/digests.py` needs NumPy alone. It prints ok, or every difference and exits 1;
`--write` rewrites the file, which is right only together with a new scheme version and a line in the changelog.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))  # from a checkout; an installed metabridge comes first

from metabridge import ClassSplitter, CombinationMetaDataset, EpisodeLoader, WeightedClassSplitter
from metabridge.configs import ModelConfig
from metabridge.episodes.batches import arrays_digest
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.networks.parameters import initial_parameters
from metabridge.sources import ArraySource
from metabridge.streams import SCHEME_VERSION, normals, philox_words, stream_key, uniforms
from metabridge.toy import Harmonic, Sinusoid, SinusoidAndLine, ToyMetaDataset
from metabridge.transforms import Categorical, Rotation

__all__ = ["FILE", "compute", "differences", "main", "source"]

FILE = Path(__file__).with_name("episodes.json")

SEEDS = (0, 1, -7, 2**64 + 1)
INDICES = (0, 1, 2, 63, 2**31, 2**53 + 1, 2**63 - 1)


def source(channels: int = 1) -> ArraySource:
    """30 classes of 20 to 24 images of 28×28, every byte from integer arithmetic on its address."""
    sizes = 20 + np.arange(30) % 5
    address = np.arange(int(sizes.sum()) * 28 * 28 * channels, dtype=np.uint64)
    mixed = address * np.uint64(0x9E3779B97F4A7C15)
    pixels = (mixed ^ (mixed >> np.uint64(29))) >> np.uint64(56)
    examples = pixels.astype(np.uint8).reshape(-1, 28, 28, channels)
    return ArraySource(examples, np.cumsum(sizes) - sizes, sizes, [f"class {i:02d}" for i in range(30)])


def combination(
    ways: int = 5, shots: int = 1, test_shots: int = 15, shuffle: bool = True, splitter_seed: int = 0, **arguments: Any
) -> MetaDataset:
    """A meta-dataset over `source()`."""
    splitter = ClassSplitter(
        shuffle=shuffle,
        num_train_per_class=shots,
        num_test_per_class=test_shots,
        random_state_seed=splitter_seed,
    )
    return CombinationMetaDataset(source(), ways, dataset_transform=splitter, **arguments)


def weighted(**arguments: Any) -> MetaDataset:
    """A meta-dataset over `source()` whose classes differ in how many examples they have in an episode."""
    splitter = WeightedClassSplitter(train_weights=0.1, test_weights=0.4, **arguments)
    return CombinationMetaDataset(source(), 5, dataset_transform=splitter)


def toy(problem: type[ToyMetaDataset], samples: int = 20, family: int = 0, **arguments: Any) -> MetaDataset:
    """A toy problem with 10 support points."""
    splitter = ClassSplitter(num_train_per_class=10, num_test_per_class=samples - 10)
    dataset = problem(samples, dataset_transform=splitter, **arguments)
    dataset.seed(family)
    return dataset


def function_digest(problem: type[ToyMetaDataset]) -> str:
    """Digest of the parameters and the float64 values of 64 functions; a batch's float32 would hide their last bits."""
    dataset, tasks = problem(20), np.arange(64)
    values = dataset.evaluate(tasks, np.broadcast_to(np.arange(-80, 81) / 16, (64, 161)))
    return arrays_digest({"parameters": (*dataset.task_parameters(tasks).values(),), "values": (values,)})


def datasets() -> dict[str, MetaDataset]:
    """Name → a meta-dataset whose plans and batches are promised."""
    rotations = [Rotation([90, 180, 270])]
    return {
        "5-way 1-shot": combination(),
        "5-way 5-shot": combination(shots=5),
        "20-way 1-shot 1-query": combination(20, 1, 1),
        "30-way, all classes": combination(30, 2, 3),
        "permuted labels": combination(target_transform=Categorical(5)),
        "rotations": combination(20, 1, 5, class_augmentations=rotations, target_transform=Categorical(20)),
        "in order": combination(shuffle=False),
        "splitter seed": combination(splitter_seed=3),
        "meta-val": combination(meta_split="val"),
        "meta-test": combination(meta_split="test"),
        "whole tasks": CombinationMetaDataset(source().select(range(0, 30, 5)), 3),
        "weighted": weighted(),
        "weighted, equal in a task": weighted(force_equal_per_class=True),
        "sinusoid": toy(Sinusoid),
        "sinusoid with noise": toy(Sinusoid, 21, noise_std=0.3),
        "sinusoid, another family": toy(Sinusoid, family=5, num_tasks=100, noise_std=1.0),
        "sinusoid, meta-test, many points": toy(Sinusoid, 60, meta_split="test", num_tasks=10**12),
        "harmonic": toy(Harmonic),
        "harmonic with noise": toy(Harmonic, 22, noise_std=0.1),
        "harmonic, another family": toy(Harmonic, 23, family=5, meta_split="val", num_tasks=10**12),
        "sinusoid and line": toy(SinusoidAndLine, 24),
        "sinusoid and line with noise": toy(SinusoidAndLine, 25, noise_std=0.3),
        "sinusoid and line, another family": toy(SinusoidAndLine, 26, family=-3, meta_split="test", num_tasks=101),
    }


MODELS = {
    "mlp": ModelConfig(),
    "wide mlp": ModelConfig("mlp", (784,), 5, (256, 128)),
    "conv4": ModelConfig("conv4", (28, 28, 1), 5, (64, 64, 64, 64)),
}


def compute() -> dict[str, dict[str, Any]]:
    """Everything promised: section → name → digest, or words in hexadecimal."""
    made = datasets()
    return {
        "scheme": {"version": SCHEME_VERSION},
        "keys": {
            f"{purpose}, seed {seed}, {split}": _hex(stream_key(purpose, seed, split))
            for purpose, split in (
                ("episode/0", "train"),
                ("toy/Sinusoid", "test"),
                ("toy/Harmonic", "train"),
                ("toy/SinusoidAndLine", "val"),
            )
            for seed in SEEDS
        },
        "raw words": {
            f"key {key}, index {index}, lane {lane}": _hex(philox_words(key, [index], 6, lane)[0].tolist())
            for key in ((0, 0), (1, 2), (2**64 - 1, 2**63))
            for index in (0, 1, 2**63 - 1, 2**63, 2**64 - 1)
            for lane in (0, 1)
        },
        "floats": {
            "uniforms": _hex(uniforms(philox_words((1, 2), [0], 8), -5.0, 5.0).view(np.uint64)[0].tolist()),
            "normals": _hex(normals(philox_words((1, 2), [0], 8)).view(np.uint64)[0].tolist()),
            "many normals": arrays_digest({"normals": (normals(philox_words((1, 2), range(4096), 8)),)}),
        },
        "functions": {problem.__name__: function_digest(problem) for problem in (Sinusoid, Harmonic, SinusoidAndLine)},
        "fingerprints": {
            "source": source().fingerprint,
            "source of colour images": source(3).fingerprint,
            **{name: dataset.fingerprint for name, dataset in made.items()},
        },
        "plans": {
            f"{name}, seed {seed}": dataset.plan(seed, INDICES).digest()
            for name, dataset in made.items()
            for seed in SEEDS
        },
        "batches": {name: dataset.episodes(range(8), seed=1).digest() for name, dataset in made.items()},
        "far batches": {name: dataset.episodes(INDICES, seed=0).digest() for name, dataset in made.items()},
        "tasks": {
            name: dataset.gather(dataset.task_plan(_some_task(dataset))).digest() for name, dataset in made.items()
        },
        "loader": {
            f"rank {rank} of {world}": [
                batch.digest() for batch in EpisodeLoader(made["5-way 1-shot"], 3, 2, 0, (rank, world), start=7)
            ]
            for world in (1, 2)
            for rank in range(world)
        },
        "parameters": {
            f"{name}, seed {seed}": arrays_digest({k: (v,) for k, v in initial_parameters(model, seed).items()})
            for name, model in MODELS.items()
            for seed in SEEDS
        },
    }


def _hex(words: Any) -> list[str]:
    return [f"{word:016x}" for word in words]


def _some_task(dataset: MetaDataset) -> Any:
    ways = dataset.num_classes_per_task
    return 12 if ways is None else tuple((7 * i + 2) % dataset.num_classes for i in range(ways))


def differences(expected: dict[str, dict[str, Any]], computed: dict[str, dict[str, Any]]) -> list[str]:
    """One line for every promised value that is missing, new or another one."""
    lines = []
    for section in sorted(expected.keys() | computed.keys()):
        old, new = expected.get(section, {}), computed.get(section, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                lines.append(f"{section}: {name}: promised {old.get(name)}, got {new.get(name)}")
    return lines


def main(arguments: list[str], file: Path = FILE) -> int:
    """Compare, or with `--write` rewrite; returns the exit status."""
    computed = compute()
    if arguments == ["--write"]:
        file.write_text(json.dumps(computed, indent=1) + "\n")
        print(f"wrote {file}")
        return 0
    if arguments:
        print(f"usage: digests.py [--write], got {arguments}")
        return 2
    lines = differences(json.loads(file.read_text()), computed)
    count = sum(len(section) for section in computed.values())
    print("\n".join(lines) if lines else f"ok: {count} values, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
