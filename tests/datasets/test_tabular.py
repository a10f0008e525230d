"""Benchmarks of feature vectors from small files in the official form: checked, built, split, read."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metabridge.datasets import Bach, Letter, PlantsMargin, PlantsShape, PlantsTexture, benchmarks, helpers, tabular
from metabridge.datasets.catalogue import BENCHMARKS
from metabridge.sources import HDF5Source
from metabridge.transforms import ColorJitter, Normalize

PER_CLASS = 4
NOTES = [f"{letter}{sign}" for letter in "ABCDEFGH" for sign in ("", "#")]
"""As many spellings of the bass note as the official file has; they are in no order there."""

Classes = dict[str, np.ndarray]


def classes_of(table: str) -> list[str]:
    """All classes, in an order that is not theirs in the store."""
    split = benchmarks.split_table(table)
    return [name for meta_split in ("val", "train", "test") for name in split[meta_split]]


def grouped(rows: list[tuple[str, list[float]]]) -> Classes:
    found: dict[str, list[list[float]]] = {}
    for name, features in rows:
        found.setdefault(name, []).append(features)
    return {name: np.array(each, np.float32) for name, each in found.items()}


def make_letter(path: Path) -> Classes:
    rng = np.random.default_rng(0)
    names = rng.permutation(np.repeat(classes_of("letter"), PER_CLASS)).tolist()
    rows = [(name, rng.integers(0, 16, 16).tolist()) for name in names]
    path.write_text("".join(f"{name},{','.join(map(str, features))}\n" for name, features in rows))
    return grouped(rows)


def plant_rows(largest: float, missing: int = 0) -> list[tuple[str, list[float]]]:
    rng = np.random.default_rng(0)
    names = rng.permutation(np.repeat(classes_of("one_hundred_plants"), PER_CLASS)).tolist()
    rows = [(name, (rng.integers(0, 10_001, 64) * (largest / 10_000)).tolist()) for name in names[missing:]]
    rows[0][1][0] = largest
    return rows


def make_plants_text(path: Path, largest: float) -> Classes:
    rows = plant_rows(largest)
    path.write_text("".join(f"{name},{','.join(map(str, features))}\r\n" for name, features in rows), newline="")
    return grouped(rows)


def make_plants_csv(path: Path, largest: float) -> Classes:
    rows = plant_rows(largest)
    header = ",".join([f'"V{i}"' for i in range(1, 65)] + ['"Class"'])
    path.write_text(header + "\n" + "".join(f"{','.join(map(str, values))},{name}\n" for name, values in rows))
    return grouped(rows)


def make_plants_arff(path: Path, largest: float) -> Classes:
    """With one row less, as the documented texture file."""
    rows = plant_rows(largest, missing=1)
    columns = [f"@ATTRIBUTE V{i} REAL\n" for i in range(1, 65)] + ["@ATTRIBUTE Class {1,2,3}\n"]
    data = "".join(f"{','.join(map(str, values))},'{name}'\n" for name, values in rows)
    path.write_text(f"% leaves\n@RELATION leaves\n\n{''.join(columns)}\n@DATA\n{data}")
    return grouped(rows)


def bach_sizes() -> dict[str, int]:
    """The i-th chord of each meta-split has 1 + i % 4 examples."""
    table = benchmarks.split_table("bach")
    return {name: 1 + i % 4 for split in ("train", "val", "test") for i, name in enumerate(table[split])}


def make_bach(path: Path) -> Classes:
    rng = np.random.default_rng(0)
    names = [name for name, count in bach_sizes().items() for _ in range(count)]
    lines, rows = [], []
    for number, name in enumerate(names):
        flags, note, metre = rng.integers(0, 2, 12), NOTES[-1 - number % 16], 1 + number % 5
        written = ["YES" if flag else " NO" for flag in flags]
        lines.append(",".join(["000106b_", str(number), *written, note, str(metre), name]) + "\n")
        bass = [float(note == each) for each in sorted(NOTES)]
        rows.append((name, [*flags.tolist(), *bass, (metre - 1) / 4]))
    path.write_text("".join(lines))
    return grouped(rows)


@dataclass(frozen=True)
class Row:
    """A benchmark, how to make its file small, and what is known of it."""

    benchmark: benchmarks.Benchmark
    file: str
    make: Callable[[Path], Classes]
    read: Callable[..., Any]
    helper: Callable[..., Any]
    meta_dataset: type
    features: int
    classes: tuple[int, int, int]
    split: str


def rows_of(sizes: dict[str, int], table: str) -> tuple[int, ...]:
    split = benchmarks.split_table(table)
    return tuple(sum(sizes[label] for label in split[meta_split]) for meta_split in ("train", "val", "test"))


def small_leaves(benchmark: benchmarks.Benchmark) -> Callable[..., Any]:
    return partial(benchmark.variants["full"].read, rows=(399, 400), sizes=(3, 4))


PLANTS = (64, (70, 15, 15), "one_hundred_plants")
ROWS = {
    row.benchmark.name: row
    for row in [
        Row(tabular.LETTER, "letter-recognition.data", make_letter,
            partial(tabular.read_letter, rows=(15 * PER_CLASS, 5 * PER_CLASS, 6 * PER_CLASS), sizes=(4, 4)),
            helpers.letter, Letter, 16, (15, 5, 6), "letter"),
        Row(tabular.PLANTS_MARGIN, "data_Mar_64.txt", partial(make_plants_text, largest=0.416),
            small_leaves(tabular.PLANTS_MARGIN), helpers.plants_margin, PlantsMargin, *PLANTS),
        Row(tabular.PLANTS_SHAPE, "shape.csv", partial(make_plants_csv, largest=0.003),
            small_leaves(tabular.PLANTS_SHAPE), helpers.plants_shape, PlantsShape, *PLANTS),
        Row(tabular.PLANTS_TEXTURE, "texture.arff", partial(make_plants_arff, largest=0.854),
            small_leaves(tabular.PLANTS_TEXTURE), helpers.plants_texture, PlantsTexture, *PLANTS),
        Row(tabular.BACH, "jsbach_chorals_harmony.data", make_bach,
            partial(tabular.read_bach, rows=rows_of(bach_sizes(), "bach"), sizes=(1, 4)), helpers.bach, Bach,
            29, (61, 20, 21), "bach"),
    ]
}  # fmt: skip
EVERY_BENCHMARK = pytest.mark.parametrize("name", ROWS)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A benchmark that takes the small file, that file, and class → its features."""

    def get(name):
        row = ROWS[name]
        variant = dataclasses.replace(row.benchmark.variants["full"], read=row.read)
        benchmark = dataclasses.replace(row.benchmark, variants={"full": variant})
        monkeypatch.setattr(row.meta_dataset, "benchmark", benchmark)
        path = tmp_path / row.file
        return benchmark, path, row.make(path)

    return get


@EVERY_BENCHMARK
def test_the_split_is_the_known_one(name):
    row = ROWS[name]
    table = benchmarks.split_table(row.split)
    sets = [table[split] for split in ("train", "val", "test")]
    assert tuple(map(len, sets)) == row.classes
    assert len({label for each in sets for label in each}) == sum(row.classes)
    assert row.benchmark.variants["full"].num_classes == sum(row.classes)
    assert BENCHMARKS[name] is row.benchmark


@EVERY_BENCHMARK
def test_it_is_built_from_a_file_and_read(name, small, tmp_path):
    row = ROWS[name]
    benchmark, path, features = small(name)
    root = tmp_path / "root"
    store = HDF5Source(benchmarks.build(benchmark, root, source=path, progress=False))
    assert store.provenance["archives"] == {path.name: f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"}
    assert store.provenance["preparation"]
    variant = benchmark.variants["full"]
    assert store.dtype == variant.dtype == np.float32
    assert store.example_shape == variant.example_shape == (row.features,)
    assert len(store) == variant.num_classes
    assert list(store.class_names) == sorted(features)
    for split in ("train", "val", "test"):
        dataset = row.helper(root, shots=1, ways=3, test_shots=2, meta_split=split, seed=0)
        assert set(dataset.source.class_names) <= set(benchmarks.split_table(row.split)[split])
        assert dataset.source.example_shape == (row.features,)
        batch = dataset.episodes(range(2))
        assert batch["train"][0].shape == (2, 3, row.features)
        assert batch["test"][0].shape == (2, 6, row.features)
        for i, label in enumerate(dataset.source.class_names):
            size = int(dataset.source.class_sizes[i])
            found = dataset.source.gather(np.full(size, i), np.arange(size))
            np.testing.assert_array_equal(found, features[label])


@EVERY_BENCHMARK
def test_there_is_no_download_and_the_error_says_what_to_get(name, tmp_path):
    row = ROWS[name]
    advice = f"metabridge build {name} --root .* --from PATH"
    with pytest.raises(FileNotFoundError, match=f"cannot be downloaded.*data set.*{advice}"):
        benchmarks.build(row.benchmark, tmp_path / "root", progress=False)
    with pytest.raises(FileNotFoundError, match=f"cannot be downloaded.*{advice}"):
        row.helper(tmp_path / "root", shots=1, ways=3, meta_train=True, download=True)
    with pytest.raises(FileNotFoundError, match=f"is not built.*{advice}"):
        row.meta_dataset(tmp_path / "root", 3, meta_train=True)
    with pytest.raises(ValueError, match=rf"{tmp_path} must be one file, it is a folder; pass the file in it"):
        benchmarks.build(row.benchmark, tmp_path / "root", source=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@EVERY_BENCHMARK
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "rows, got 0"), (b"PK\x03\x04\xff\xfe", "must be a text file"), (b"a,b\n", "columns with commas")],
)
def test_a_file_of_another_dataset_is_refused(name, content, message, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        benchmarks.build(ROWS[name].benchmark, tmp_path / "root", source=other, progress=False)
    assert not list(tmp_path.rglob("*.h5"))


@EVERY_BENCHMARK
def test_the_official_counts_are_asked_for(name, small, tmp_path):
    _, path, _ = small(name)
    benchmark = ROWS[name].benchmark
    published = sum(benchmark.variants["full"].num_examples)
    with pytest.raises(ValueError, match=rf"must hold .*{published:,} rows, got"):
        benchmarks.build(benchmark, tmp_path / "root", source=path, progress=False)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("letter", ",15,", ",16,", "integers from 0 to 15"),
        ("letter", ",15,", ",x,", "must hold numbers"),
        ("letter", ",15,", ",nan,", "must hold finite numbers"),
        ("letter", "A,", "B,", "4 to 4 rows of every class"),
        ("plants_margin", "0.416", "-0.416", "is it another of the three"),
        ("plants_margin", "0.416", "0.6", "is it another of the three"),
        ("plants_shape", '"Class"', '"Class","Class"', "one column called class"),
        ("bach", "YES,", "yes,", "YES or NO"),
        ("bach", ",G#,", ",G,", "in 16 ways, got 15"),
        ("bach", ",5, ", ",6, ", "a metre from 1 to 5"),
        ("bach", ", C_M\n", ",C_M\n", "lacks ' C_M'"),
    ],
)
def test_a_wrong_value_is_found(name, old, new, message, small, tmp_path):
    benchmark, path, _ = small(name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        benchmarks.build(benchmark, tmp_path / "root", source=path, progress=False)
    assert not list(tmp_path.rglob("*.h5"))


def test_the_three_plant_files_are_told_apart(small, tmp_path):
    for name, other in (("plants_margin", "plants_shape"), ("plants_shape", "plants_texture")):
        benchmark, _, _ = small(name)
        _, path, _ = small(other)
        with pytest.raises(ValueError, match="is it another of the three"):
            benchmarks.build(benchmark, tmp_path / "root", source=path, progress=False)


def test_names_of_species_are_not_guessed_into_numbers(small, tmp_path):
    benchmark, path, _ = small("plants_margin")
    path.write_text("".join(f"Acer {line}\n" for line in path.read_text().splitlines()))
    with pytest.raises(ValueError, match=r"names cannot be translated.*OpenML"):
        benchmarks.build(benchmark, tmp_path / "root", source=path, progress=False)


def test_small_chords_are_left_out(small, tmp_path):
    benchmark, path, _ = small("bach")
    root = tmp_path / "root"
    benchmarks.build(benchmark, root, source=path, progress=False)
    assert len(Bach(root, 5, meta_test=True).source.class_names) == 21
    dataset = Bach(root, 5, meta_test=True, min_num_samples_per_class=3)
    expected = [name for name in benchmarks.split_table("bach")["test"] if bach_sizes()[name] >= 3]
    assert list(dataset.source.class_names) == expected
    assert helpers.bach(root, shots=2, ways=3, meta_test=True).source.class_sizes.min() == 4
    assert helpers.bach(root, shots=1, ways=3, meta_test=True).source.class_sizes.min() == 2
    with pytest.raises(ValueError, match="must leave a chord"):
        Bach(root, 5, meta_test=True, min_num_samples_per_class=5)
    with pytest.raises(TypeError, match="`min_num_samples_per_class` must be an integer"):
        Bach(root, 5, meta_test=True, min_num_samples_per_class=2.5)
    assert len(Bach(root, 5, meta_test=True, min_num_samples_per_class=np.int64(3)).source) == len(expected)
    with pytest.raises(TypeError, match="`min_num_samples_per_class` must be an integer, got True"):
        Bach(root, 5, meta_test=True, min_num_samples_per_class=True)
    with pytest.raises(ValueError, match="need 4 examples of every class"):
        helpers.bach(root, shots=2, ways=3, meta_test=True, min_num_samples_per_class=1)


@EVERY_BENCHMARK
def test_numbers_of_helpers_may_be_those_of_numpy(name, small, tmp_path):
    benchmark, path, _ = small(name)
    benchmarks.build(benchmark, tmp_path / "root", source=path, progress=False)
    plain = ROWS[name].helper(tmp_path / "root", 1, 3, test_shots=2, meta_test=True)
    numbers = {
        "shots": np.int64(1),
        "ways": np.uint8(3),
        "test_shots": np.int32(2),
        "num_classes_per_task": np.int64(3),
    }
    assert ROWS[name].helper(tmp_path / "root", **numbers, meta_test=True).fingerprint == plain.fingerprint
    for wrong in (5.0, 0, True, "1"):
        for argument in ("shots", "ways", "test_shots"):
            with pytest.raises(ValueError, match=rf"`{argument}` must be a positive integer, got {wrong!r}; pass"):
                ROWS[name].helper(tmp_path / "root", **{"shots": 1, "ways": 3, argument: wrong}, meta_test=True)


@pytest.mark.parametrize("name", ["plants_margin", "plants_shape", "plants_texture"])
def test_features_are_scaled_by_what_meta_training_may_know(name, small, tmp_path):
    """By the meta-train classes in every meta-split; what Torchmeta documents of `process_features`."""
    benchmark, path, features = small(name)
    benchmarks.build(benchmark, tmp_path, source=path, progress=False)
    labels = benchmarks.split_table("one_hundred_plants")["train"]
    known = np.concatenate([features[label] for label in labels]).astype(np.float64)
    if name == "plants_shape":
        shift, scale = known.mean(axis=0), known.std(axis=0) + 1e-10
    else:
        shift, scale = known.min(axis=0), np.ptp(known, axis=0)
    for split in ("train", "test"):
        plain = ROWS[name].helper(tmp_path, 1, 5, meta_split=split)
        scaled = ROWS[name].helper(tmp_path, 1, 5, meta_split=split, process_features=True, transform=Normalize(0, 2))
        assert plain.fingerprint != scaled.fingerprint
        for role, (inputs, _) in plain.episodes(range(9)).items():
            np.testing.assert_allclose(scaled.episodes(range(9))[role][0], (inputs - shift) / scale / 2, atol=1e-4)


def test_a_feature_that_never_changes_is_not_divided_by_nothing(small, tmp_path):
    benchmark, path, _ = small("plants_margin")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(",".join([row[0], "0.25", *row[2:]]) + "\n" for row in rows))
    benchmarks.build(benchmark, tmp_path, source=path, progress=False)
    inputs = helpers.plants_margin(tmp_path, 1, 5, meta_train=True, process_features=True).episodes([0])["train"][0]
    assert (inputs[..., 0] == 0).all()
    assert np.isfinite(inputs).all()


def test_vectors_take_no_transform_of_images(small, tmp_path):
    benchmark, path, _ = small("letter")
    benchmarks.build(benchmark, tmp_path, source=path, progress=False)
    with pytest.raises(ValueError, match=r"`transform` is for images .* only Elementwise transforms such as Normalize"):
        helpers.letter(tmp_path, 1, 5, meta_train=True, transform=[Normalize(7.5, 4), ColorJitter(0.4)])


def test_numbers_in_the_form_of_letter_are_not_letter(tmp_path):
    """As many rows, and of each letter about as many as there are: only not as many of each meta-split."""
    rng = np.random.default_rng(0)
    rows = np.char.mod("%d", rng.integers(0, 16, (20_000, 16)))
    letters = np.resize(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 20_000)
    (tmp_path / "made.data").write_text("".join(f"{c},{','.join(row)}\n" for c, row in zip(letters, rows, strict=True)))
    with pytest.raises(ValueError, match=r"must hold 11636/3756/4608 rows of meta-train, .* got 11541/3845/4614"):
        benchmarks.build(tabular.LETTER, tmp_path / "root", source=tmp_path / "made.data", progress=False)
