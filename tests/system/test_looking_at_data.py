"""`metabridge datasets`, `show` and `build --verify`: what a person looks at before training."""

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from metabridge import ClassSplitter, CombinationMetaDataset, SegmentationMetaDataset, WeightedClassSplitter
from metabridge.cli.app import app
from metabridge.datasets import benchmarks
from metabridge.datasets.catalogue import BENCHMARKS, load
from metabridge.reports.figures import draw_episode
from metabridge.sources import ArraySource, HDF5Source, write_store
from metabridge.toy import Sinusoid
from metabridge.toy.helpers import sinusoid
from metabridge.transforms import Normalize


def run(*arguments):
    """Standard output; an expected error comes out as the exception it is."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def built(tmp_path):
    """A store of CIFAR-FS's classes with two images each, under the right name."""
    table = benchmarks.split_table("cifar_fs")
    names = sorted(name for split in ("train", "val", "test") for name in table[split])
    images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    path = benchmarks.store_path(BENCHMARKS["cifar_fs"], tmp_path)
    provenance = {"benchmark": "cifar_fs", "variant": "full", "preparation": "32x32 RGB as published"}
    write_store(path, names, [2] * 100, (32, 32, 3), np.uint8, [images], provenance)
    return path


def test_the_list_has_every_benchmark_and_says_what_is_built(tmp_path, built):
    lines = run("datasets", "--root", tmp_path).splitlines()
    assert {line.split()[0] for line in lines} == {
        "benchmark", "sinusoid", "harmonic", "sinusoid_and_line", *BENCHMARKS
    }  # fmt: skip
    (line,) = (line.split("  ") for line in lines if line.startswith("cifar_fs"))
    fingerprint, size = HDF5Source(built).fingerprint[:8], f"{built.stat().st_size / 1e3:.1f} kB"
    assert [cell.strip() for cell in line if cell] == [
        "cifar_fs", "full", "64/16/20", "128/32/40", "32x32x3", size, "unknown", f"built {fingerprint}",
        "photographs, Bertinetto et al. 2019",
    ]  # fmt: skip
    tiered = [line.split("  ") for line in lines if line.startswith("tieredimagenet")]
    assert [[cell.strip() for cell in line if cell] for line in tiered] == [
        ["tieredimagenet", variant, "351/97/160", "448,695/124,261/206,209", "84x84x3", "~16.5 GB", "research only",
         "not built", "photographs, Ren et al. 2018"]
        for variant in ("full", "ilsvrc")
    ]  # fmt: skip
    assert max(map(len, lines)) < 165


def test_one_benchmark_with_its_classes(tmp_path, built):
    text = run("datasets", "cifar_fs", "--root", tmp_path, "--classes")
    assert "meta-train: 64 classes, 128 examples" in text
    printed = {line.split()[0] for line in text.splitlines() if line.startswith("      ")}
    assert printed == {name for split in ("train", "val", "test") for name in benchmarks.split_table("cifar_fs")[split]}
    text = run("datasets", "omniglot", "--root", tmp_path, "--classes")
    for words in (
        "vinyals\n    meta-train: 1028 classes",
        "evaluation\n    meta-train: 964 classes",
        "alphabets, known",
    ):
        assert f"  split {words}" in text or f"  split background/{words}" in text
    assert sum(line.startswith("      images_") for line in text.splitlines()) == 2 * 1623
    assert "no download: Get letter-recognition.data" in run("datasets", "letter", "--root", tmp_path)
    with pytest.raises(ValueError, match="'sinusoid' is computed"):
        run("datasets", "sinusoid")
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        run("datasets", "cifar", "--root", tmp_path)
    with pytest.raises(ValueError, match=r"or a store of yours .* did you mean 'miniimagenet'"):
        run("datasets", "miniimagnet", "--root", tmp_path)
    with pytest.raises(ValueError, match="--classes` needs the name of a benchmark"):
        run("datasets", "--classes")


def test_it_says_how_a_store_was_made(tmp_path, built):
    assert " kB\npreparation: 32x32 RGB as published\n" in run("datasets", "cifar_fs", "--root", tmp_path)
    assert "preparation" not in run("datasets", "cub", "--root", tmp_path)


@pytest.mark.parametrize("damage", ["other format", "damaged"])
def test_a_store_that_cannot_be_read_is_short_in_the_list_and_explained_in_detail(tmp_path, built, damage):
    if damage == "damaged":
        built.write_bytes(built.read_bytes()[:-3000] + bytes(3000))
    else:
        with h5py.File(built, "w") as file:
            file.attrs.update({"format": "metabridge class source", "format_version": 1})
    listed = run("datasets", "--root", tmp_path).splitlines()
    (line,) = (line for line in listed if line.startswith("cifar_fs"))
    assert f"  {damage} " in line
    assert max(map(len, listed)) < 165
    text = run("datasets", "cifar_fs", "--root", tmp_path)
    reason = {
        "damaged": "is not a readable class source (its content is damaged); delete it and build it again.",
        "other format": "is HDF5, but no store of version 2: build an older store again; of arrays of your own make "
        "one with save_source(LabelledSource(file['images'], file['labels']), 'store.h5').",
    }[damage]
    assert f"{damage}: {built}, " in text
    assert f"\n{built} {reason}\n" in text


@pytest.mark.parametrize("name", ["sinusoid", "harmonic", "sinusoid_and_line"])
def test_a_regression_is_drawn(tmp_path, name):
    picture = tmp_path / "episode.png"
    assert "episode 3 of seed 1" in run("show", name, "-o", picture, "--seed", 1, "--index", 3)
    with Image.open(picture) as image:
        assert min(image.size) > 300
    for option in (["--ways", 5], ["--variant", "full"], ["--split", "official"]):
        with pytest.raises(ValueError, match=f"`--variant` and `--split` are of stored benchmarks, {name} is a toy"):
            run("show", name, "-o", picture, *option)


def test_an_episode_of_images_is_drawn(tmp_path, built):
    picture = tmp_path / "episode.png"
    run("show", "cifar_fs", "--root", tmp_path, "-o", picture, "--shots", 1, "--test-shots", 1, "--meta-split", "test")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # the photographs are there, in colour


@pytest.fixture(scope="module")
def with_splits(tmp_path_factory):
    """A folder with two black images of every class, for every variant that has several splits, and what they are."""
    root, found = tmp_path_factory.mktemp("splits"), []
    for benchmark in BENCHMARKS.values():
        for name, variant in benchmark.variants.items():
            if len(variant.splits) < 2:
                continue
            splits = [split(()) for split in variant.splits.values()]
            names = sorted({each for split in splits for classes in split.values() for each in classes})
            shape = variant.example_shape
            blocks = (np.zeros((2, *shape), variant.dtype) for _ in names)
            path = benchmarks.store_path(benchmark, root, name)
            facts = {"benchmark": benchmark.name, "variant": name}
            write_store(path, names, [2] * len(names), shape, variant.dtype, blocks, facts)
            found += [(benchmark, name, split) for split in variant.splits]
    return root, found


def test_every_split_that_is_listed_can_be_named(with_splits):
    root, found = with_splits
    assert {(benchmark.name, split) for benchmark, _, split in found} == {
        ("omniglot", "vinyals"), ("omniglot", "background/evaluation"), *(("pascal5i", f"fold {i}") for i in range(4))
    }  # fmt: skip
    for benchmark, variant, split in found:
        dataset = load(benchmark, root, variant, split=split, shots=1, meta_split="test")
        assert dataset.split == split
        assert set(dataset.source.class_names) == set(benchmark.variants[variant].splits[split](())["test"])
    assert load(BENCHMARKS["omniglot"], root, shots=1, meta_split="test").split == "vinyals"


def test_show_reaches_every_split(with_splits, tmp_path, built, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "metabridge.reports.figures.draw_episode",
        lambda dataset, batch, title: drawn.append((dataset, title)) or draw_episode(dataset, batch, title),
    )
    root, _ = with_splits
    picture = ["-o", tmp_path / "episode.png", "--shots", 1, "--test-shots", 1, "--meta-split", "test"]
    for name, split in (("pascal5i", "fold 3"), ("omniglot", "background/evaluation")):
        assert f"meta-test of {split}" in run("show", name, "--root", root, *picture, "--split", split)
        assert drawn[-1][0].split == split
        assert drawn[-1][1] == f"{name}: episode 0 of seed 0, meta-test of {split}"
    run("show", "cifar_fs", "--root", tmp_path, *picture, "--split", "official")
    for name, known in {
        "pascal5i": "pascal5i 321 must be one of 'fold 0', 'fold 1', 'fold 2', 'fold 3'",
        "cifar_fs": "cifar_fs full must be one of 'official'",
    }.items():
        with pytest.raises(ValueError, match=f"`split` of {known}, got 'fold 4'"):
            run("show", name, "--root", root, *picture, "--split", "fold 4")


def test_a_regression_is_drawn_over_the_whole_range():
    dataset = sinusoid(shots=2, test_shots=2)
    figure = draw_episode(dataset, dataset.episodes([0]), "a title of $ two dollars $")
    line = figure.axes[0].lines[0].get_xdata()
    assert (line[0], line[-1]) == (-5, 5)
    assert figure.get_suptitle() == r"a title of \$ two dollars \$"


def test_the_sheet_shows_the_episode_s_own_pixels():
    images = {f"c{i}": np.full((4, 8, 8, 3), 40 * i, np.uint8) for i in range(1, 4)}
    dataset = CombinationMetaDataset(ArraySource.from_classes(images), 2)
    ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=2)
    batch = dataset.episodes([5])
    axes = draw_episode(dataset, batch).axes[0]
    sheet = axes.images[0].get_array()
    assert sheet.shape == (20, 31, 3)  # three images of 8, a line of 1 around each, and 1 between support and query
    for row, class_id in enumerate(batch.plan.classes[0]):
        for left in (1, 12, 22):
            inside = np.asarray(sheet[10 * row + 1 : 10 * row + 9, left : left + 8])
            np.testing.assert_allclose(inside, 40 * (class_id + 1) / 255, rtol=1e-6)
    assert (sheet[:, 10] == 1).all()
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [
        f"c{c + 1}  ({label})" for c, label in zip(batch.plan.classes[0], batch.plan.labels[0], strict=True)
    ]
    assert [text.get_text() for text in axes.texts] == ["support", "query"]


def test_a_sheet_says_what_it_leaves_out_and_brings_normalised_images_back():
    images = {c: np.arange(20 * 64, dtype=np.uint32).astype(np.uint8).reshape(20, 8, 8, 1) for c in "ab"}
    dataset = CombinationMetaDataset(ArraySource.from_classes(images), 2, transform=Normalize(0.5, 0.25))
    ClassSplitter(dataset, num_train_per_class=9, num_test_per_class=8)
    axes = draw_episode(dataset, dataset.episodes([0])).axes[0]
    assert [text.get_text() for text in axes.texts] == ["support (8 of 9 shown)", "query"]
    sheet = axes.images[0].get_array()
    assert (sheet.min(), sheet.max()) == (0, 1)


def test_masks_are_drawn_below_their_images():
    examples = np.zeros((5, 8, 8, 4), np.uint8)
    examples[:, :, :4, 3], examples[:, :, 4, 3] = 1, 255
    dataset = SegmentationMetaDataset(ArraySource.from_classes({"cat": examples}))
    ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=2)
    axes = draw_episode(dataset, dataset.episodes([0])).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cat", "mask"]
    sheet = np.asarray(axes.images[0].get_array())
    object_, outline, rest = sheet[11:19, 1:5], sheet[11:19, 5:6], sheet[11:19, 6:9]
    assert (object_ == object_[0, 0]).all()
    assert (object_[0, 0] != rest[0, 0]).any()
    assert (outline == 1).all()
    assert (rest == 0).all()


def test_what_nothing_is_said_of_is_white_in_normalised_images_too():
    examples = np.full((5, 8, 8, 4), 200, np.uint8)
    examples[..., 3] = 255
    dataset = SegmentationMetaDataset(ArraySource.from_classes({"cat": examples}), transform=Normalize(0.5, 0.25))
    ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=2)
    sheet = np.asarray(draw_episode(dataset, dataset.episodes([0])).axes[0].images[0].get_array())
    assert (sheet[11:19, 1:9] == 1).all()


def test_vectors_are_drawn_line_by_line():
    vectors = {c: np.random.default_rng(i).random((4, 3), np.float32) for i, c in enumerate("ab")}
    dataset = CombinationMetaDataset(ArraySource.from_classes(vectors), 2)
    ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=2)
    batch = dataset.episodes([0])
    support, query, _ = draw_episode(dataset, batch).axes
    for axes, split in ((support, "train"), (query, "test")):
        np.testing.assert_array_equal(axes.images[0].get_array(), batch[split][0][0])
    assert support.images[0].get_clim() == query.images[0].get_clim()


def test_a_sheet_of_many_classes_fits_a_page():
    images = ArraySource.from_classes({f"class {i}": np.zeros((2, 28, 28, 1), np.uint8) for i in range(60)})
    for ways in (5, 20, 60):
        dataset = CombinationMetaDataset(images, ways)
        ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=1)
        width, height = draw_episode(dataset, dataset.episodes([0])).get_size_inches()
        assert 0.2 * ways < height < 15
        assert 1 < width < 10


def test_class_names_are_text_and_not_too_long():
    names = ["$x_1^2$", "a" * 70]
    dataset = CombinationMetaDataset(
        ArraySource.from_classes({name: np.zeros((2, 8, 8, 1), np.uint8) for name in names}), 2
    )
    ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=1)
    axes = draw_episode(dataset, dataset.episodes([0])).axes[0]
    titles = {text.get_text().partition("  ")[0] for text in axes.get_yticklabels()}
    assert titles == {r"\$x_1^2\$", "a" * 31 + "…"}


def test_what_is_neither_image_nor_vector_cannot_be_drawn():
    dataset = CombinationMetaDataset(ArraySource.from_classes({c: np.ones((4, 3, 2), np.float32) for c in "ab"}), 2)
    ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=1)
    with pytest.raises(ValueError, match="must hold images or vectors to be drawn"):
        draw_episode(dataset, dataset.episodes([0]))
    four = ArraySource.from_classes({"cat": np.zeros((5, 8, 8, 5), np.uint8)})
    dataset = ClassSplitter(SegmentationMetaDataset(four), num_train_per_class=1, num_test_per_class=1)
    with pytest.raises(ValueError, match="images of 1 or 3 channels to be drawn, got 4"):
        draw_episode(dataset, dataset.episodes([0]))
    uneven = CombinationMetaDataset(ArraySource.from_classes({c: np.zeros((9, 4, 4, 1), np.uint8) for c in "ab"}), 2)
    WeightedClassSplitter(uneven, train_weights=0.3, test_weights=0.5)
    with pytest.raises(ValueError, match="must have equally many examples of every class to be drawn"):
        draw_episode(uneven, uneven.episodes([0]))
    whole = Sinusoid(num_samples_per_task=5)
    with pytest.raises(ValueError, match="must have a support set 'train' and a query set 'test'"):
        draw_episode(whole, whole.episodes([0]))


def test_verify_finds_a_changed_byte(tmp_path, built):
    assert "verified" in run("build", "cifar_fs", "--root", tmp_path, "--verify")
    content = bytearray(built.read_bytes())
    content[len(content) // 2] ^= 1
    built.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds other examples than were written.*build it again"):
        run("build", "cifar_fs", "--root", tmp_path, "--verify")


def test_a_folder_of_images_becomes_a_store(tmp_path):
    for name in ("circle", "square"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((12, 10), 50 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{number}.png")
    root = tmp_path / "root"
    text = run("build", "shapes", "--root", root, "--from-folder", tmp_path / "mine", "--resize", 8, "--verify")
    assert "2 classes, 6 examples" in text
    source = HDF5Source(root / "shapes" / "shapes.h5")
    assert source.class_names == ("circle", "square")
    assert source.example_shape == (8, 8, 1)
    Image.new("RGBA", (20, 20)).save(tmp_path / "mine" / "square" / "9.png")
    with pytest.raises(ValueError, match=r"9\.png has .* On the command line: --resize SIDE --mode RGB"):
        run("build", "mixed", "--root", root, "--from-folder", tmp_path / "mine", "--resize", 8)
    assert "7 examples" in run("build", "mixed", "--root", root, "--from-folder", tmp_path / "mine", "--resize", 8,
                               "--mode", "rgb")  # fmt: skip
    with pytest.raises(
        FileExistsError, match=r"exists already; .*or check it with `metabridge build shapes .* --verify`"
    ):
        run("build", "shapes", "--root", root, "--from-folder", tmp_path / "mine")
    assert "verified" in run("build", "shapes", "--root", root, "--verify")
    listed = run("datasets", "--root", root).splitlines()[-1]  # "mixed" is before it
    assert listed.split()[:4] == ["shapes", "2", "6", "8x8x1"]
    assert listed.endswith(f"built {source.fingerprint[:8]}  your own")
    detail = run("datasets", "shapes", "--root", root, "--classes")
    assert "2 classes, 6 examples of 8x8x1" in detail
    assert "  circle  3\n  square  3\n" in detail
    picture = tmp_path / "new" / "sheet"
    command = ("show", "shapes", "--root", root, "--shots", 1, "--test-shots", 2)
    assert f"{picture}.png: episode 0" in run(*command, "-o", picture)
    assert picture.with_suffix(".png").is_file()
    for option, value in (("--variant", "small1"), ("--meta-split", "test")):
        with pytest.raises(ValueError, match="`--variant`, `--split` and `--meta-split` are of benchmarks"):
            run(*command, option, value)
    for more in ((), ("--verify", "--variant", "full")):
        with pytest.raises(ValueError, match=r"shapes\.h5 is a store of your own, .* --verify alone"):
            run("build", "shapes", "--root", root, *more)
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        run("show", "shpes", "--root", root)
    picture.with_suffix(".png").unlink()
    path = root / "mixed" / "mixed.h5"
    path.write_bytes(path.read_bytes()[:-9])
    text = run("datasets", "mixed", "--root", root)
    assert "damaged: " in text
    assert "classes," not in text
    for name, message in {
        "omniglot": "that of a benchmark",
        "sinusoid": "that of a benchmark",
        "..": "letters",
    }.items():
        with pytest.raises(ValueError, match=message):
            run("build", name, "--root", root, "--from-folder", tmp_path / "mine")
    with pytest.raises(ValueError, match="go with --from-folder"):
        run("build", "omniglot", "--root", root, "--resize", 8)
    with pytest.raises(ValueError, match="cannot be combined with --from and --variant"):
        run("build", "mine", "--root", root, "--from-folder", tmp_path / "mine", "--variant", "full")
