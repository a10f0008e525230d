"""A fuzzer of arguments: valid calls of the public functions, with one argument at a time replaced by a mistake.

    python tests/fuzz.py --calls 20000 --seed 0

A mistaken call may succeed, or raise an error that a `raise` of this project wrote and that names the argument. Every
other end is a finding, and its kind says which one:

- `below`: the error was raised inside NumPy, a framework or Python's library;
- `implicit`: it was raised in this project, but by an operation that failed and not by a check;
- `unnamed`: a check raised it, but its message does not name the argument;
- `slow`: the call took more than 5 seconds.

A crash of the interpreter ends the run; `faulthandler` shows where.
"""

import argparse
import contextlib
import faulthandler
import functools
import importlib
import inspect
import itertools
import linecache
import os
import random
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

import metabridge
from metabridge import configs, datasets, sources, streams, toy, transforms
from metabridge.backends import load_backend
from metabridge.comparison.compare import compare
from metabridge.datasets import helpers as dataset_helpers
from metabridge.datasets.own import few_shot
from metabridge.networks.parameters import (
    initial_parameters,
    load_parameters,
    parameter_shapes,
    relative_difference,
    save_parameters,
)
from metabridge.networks.tables import network_layers
from metabridge.runs.evaluation import evaluation_loader
from metabridge.runs.recipes import make_run
from metabridge.runs.statistics import mean_and_ci95
from metabridge.toy import helpers as toy_helpers

__all__ = ["Call", "Finding", "fuzz", "table"]

LIMIT = 5.0
"""Seconds that a call may take."""

ROOT = Path(metabridge.__file__).resolve().parents[1]
OURS = tuple(str(ROOT / package) + os.sep for package in ("metabridge", "torch_backend", "jax_backend"))


@dataclass(frozen=True)
class Call:
    """A valid call.

    Attributes:
        name: for reports.
        function: what is called.
        arguments: name → value; names that start with `*` are positional, in their order.
        kept: names that are not replaced, as those of functions of the caller.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    kept: tuple[str, ...] = ()

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Call it with these arguments."""
        positional = [value for name, value in arguments.items() if name.startswith("*")]
        return self.function(*positional, **{name: value for name, value in arguments.items() if name[0] != "*"})


@dataclass(frozen=True)
class Finding:
    """A mistake that no check caught."""

    kind: str
    call: str
    argument: str
    value: str
    error: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.call}({self.argument}={self.value}): {self.error} [{self.place}]"


class TooSlow(BaseException):
    """The call took longer than the limit."""


# Mistakes ------------------------------------------------------------------------------------------------------------


class Nothing:
    """An object that can do nothing."""


MISTAKES: list[Any] = [
    None, -1, 0, 1, 2**63, 2**64, 10**400, 0.5, -0.5, float("nan"), float("inf"), 1j, "", "trian", "5", b"x",
    True, [], (), {}, set(), [None], [-1], [[1], [1, 2]], {"trian": 1}, {0: None}, ["a", "a"], object(), Nothing, int,
    np.int64(3), np.float32(np.nan), np.zeros(0), np.zeros((2, 3, 4)), np.array(["a"]), np.array([None, 1]),
    Path("/nowhere"), range(3), len,
]  # fmt: skip


def near(value: Any) -> list[Any]:
    """Mistakes that are like a valid value."""
    found: list[Any] = [type(value)]
    if isinstance(value, bool | str | int | float):
        found += [[value], (value, value), *([] if isinstance(value, str) else [str(value)])]
    if isinstance(value, int | float):
        found += [-value, value + 0.5, np.asarray(value)]
    elif isinstance(value, str):
        found += [value.upper(), value + " ", value.encode(), value + "\0"]
    elif isinstance(value, Mapping):
        entries = dict(value)
        first = next(iter(entries), None)
        found += [
            {name: each for name, each in entries.items() if name != first},
            {**entries, "extra": 1},
            {**entries, first: None},
            {**entries, first: "x"},
            {**entries, first: np.zeros((7, 7, 7))},
            list(entries.items()),
        ]
    elif isinstance(value, list | tuple):
        found += [[*list(value), None], value[:-1], [*value, *value], [None] * len(value), value[0] if value else 0]
    elif hasattr(type(value), "shape") and hasattr(type(value), "dtype"):
        numbers = np.asarray(value.detach() if hasattr(value, "detach") else value)
        found += [numbers, numbers.tolist(), numbers.astype(object), numbers.astype(str), numbers.astype(np.complex128)]
        found += [numbers.astype(np.float16), numbers[..., None], numbers.reshape(-1), numbers.reshape(-1)[:0]]
        if type(numbers) is not type(value):
            found += [value[..., None], value.reshape(-1), value.reshape(-1)[:0], value == value]
    return found


def mistakes_of(call: Call) -> Iterator[tuple[str, Any]]:
    """All (argument, mistake) of a call."""
    for name, value in call.arguments.items():
        if name not in call.kept:
            for mistake in itertools.chain(MISTAKES, near(value)):
                yield name, mistake


# The judge -----------------------------------------------------------------------------------------------------------


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def attempt(call: Call, argument: str, mistake: Any) -> Finding | None:
    """Make a mistaken call, and say what is wrong with its end."""
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        call.run({**call.arguments, argument: mistake})
    except (Exception, TooSlow, SystemExit) as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return _judge(call, argument, mistake, error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def _judge(call: Call, argument: str, mistake: Any, error: BaseException) -> Finding | None:
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    file, line = frames[-1]
    ours = [f"{Path(name).relative_to(ROOT)}:{number}" for name, number in frames if name.startswith(OURS)]
    place = ours[-1] if ours else f"{Path(file).name}:{line}"
    raised = linecache.getline(file, line).strip().startswith("raise")
    if isinstance(error, TooSlow):
        kind = "slow"
    elif not file.startswith(OURS):
        kind = "below"
    elif not raised and not _names(str(error), argument):
        kind = "implicit"
    elif not _names(str(error), argument):
        kind = "unnamed"
    else:
        return None
    text = f"{type(error).__name__}: {error}".replace("\n", " ")
    return Finding(kind, call.name, argument, _short(mistake), text[:160], place)


def _names(message: str, argument: str) -> bool:
    """Whether a message names an argument; one that names another in backticks was written by a check too."""
    return re.search(rf"\b{re.escape(argument.strip('*'))}\b", message) is not None or "`" in message


def _short(value: object) -> str:
    try:
        return repr(value).replace("\n", " ")[:60]
    except Exception:  # an integer with too many digits
        return type(value).__name__


def fuzz(
    calls: int, seed: int, show: Callable[[Finding], None] = lambda finding: None, only: str = ""
) -> tuple[int, list[Finding]]:
    """Make up to `calls` mistaken calls, drawn without replacement, of those whose names a pattern finds.

    Returns:
        How many were made, and the findings.
    """
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = [(call, *pair) for call in table(Path(folder)) if re.search(only, call.name)
                 for pair in mistakes_of(call)]  # fmt: skip
        random.Random(seed).shuffle(pairs)
        for call, argument, mistake in pairs[:calls]:
            with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                finding = attempt(call, argument, mistake)
            if finding is not None:
                findings.append(finding)
                show(finding)
    return min(calls, len(pairs)), findings


# Valid calls ---------------------------------------------------------------------------------------------------------


def table(folder: Path) -> list[Call]:
    """All valid calls, over files below a folder."""
    calls = [*_core_calls(folder), *_source_calls(folder), *_dataset_calls(folder)]
    for framework in ("torch", "jax"):
        calls += _backend_calls(framework)
    return calls


def _images() -> sources.ArraySource:
    numbers = np.random.default_rng(0).integers(0, 255, (8, 6, 8, 8, 1))
    return sources.ArraySource.from_classes({f"class{i}": each.astype(np.uint8) for i, each in enumerate(numbers)})


def _episodes(shots: int = 1) -> Any:
    splitter = metabridge.ClassSplitter(num_train_per_class=shots, num_test_per_class=2)
    return metabridge.CombinationMetaDataset(_images(), 3).attach(splitter)


def _first(make: Callable[..., Any]) -> Callable[..., Any]:
    """The first batch of a loader."""
    return functools.wraps(make)(lambda *args, **kwargs: next(iter(make(*args, **kwargs))))


def _run() -> configs.RunConfig:
    return configs.RunConfig(
        model=configs.ModelConfig(hidden=(3,)),
        episode=configs.EpisodeConfig(None, 2, 3),
        algorithm=configs.MAMLConfig(1, 0.1),
        meta_batch_size=2,
        steps=1,
    )


def _core_calls(folder: Path) -> list[Call]:
    splitter = metabridge.ClassSplitter(num_train_per_class=1, num_test_per_class=2)
    bare = metabridge.CombinationMetaDataset(_images(), 3)
    dataset = _episodes()
    line = toy_helpers.sinusoid(2, test_shots=3)
    shared: dict[str, Any] = {"meta_split": "train", "target_transform": None, "dataset_transform": None}
    calls = [
        Call("CombinationMetaDataset", metabridge.CombinationMetaDataset,
             {"source": _images(), "num_classes_per_task": 3, **shared,
              "class_augmentations": [transforms.Rotation(90)], "transform": transforms.Resize(4),
              "query_source": None}),
        Call("MetaDataset.attach", bare.attach, {"splitter": splitter}),
        Call("MetaDataset.__getitem__", bare.__getitem__, {"index": (3, 7, 1)}),
        Call("MetaDataset.plan", dataset.plan, {"seed": 0, "indices": [0, 1]}),
        Call("MetaDataset.episodes", dataset.episodes, {"indices": [0, 1], "seed": 0}),
        Call("MetaDataset.seed", metabridge.CombinationMetaDataset(_images(), 3).seed, {"seed": 0}),
        Call("MetaDataset.class_name", bare.class_name, {"class_id": 1}),
        Call("toy.attach", toy.Sinusoid(5).attach, {"splitter": splitter}),
        Call("toy.__getitem__", line.__getitem__, {"index": 3}),
        Call("toy.episodes", line.episodes, {"indices": [0, 1], "seed": 0}),
        Call("ClassSplitter", metabridge.ClassSplitter,
             {"task": None, "shuffle": True, "num_train_per_class": 1, "num_test_per_class": 2,
              "random_state_seed": 0}),
        Call("ClassSplitter, of a dataset", metabridge.ClassSplitter,
             {"task": bare, "num_support_per_class": 1, "num_query_per_class": 2}),
        Call("ClassSplitter, samples", metabridge.ClassSplitter, {"num_samples_per_class": {"train": 1, "test": 2}}),
        Call("WeightedClassSplitter", metabridge.WeightedClassSplitter,
             {"task": bare, "shuffle": True, "min_num_samples": 1, "max_num_samples": 3, "train_weights": 0.5,
              "test_weights": 0.5, "force_equal_per_class": False, "random_state_seed": 0}),
        Call("WeightedClassSplitter, weights", metabridge.WeightedClassSplitter,
             {"min_num_samples": {"train": 1, "test": 1}, "max_num_samples": {"train": 2, "test": 2},
              "weights": {"train": 0.5, "test": 0.5}}),
        Call("EpisodeLoader", _first(metabridge.EpisodeLoader),
             {"dataset": dataset, "batch_size": 2, "num_batches": 2, "seed": 0, "shard": (0, 1), "start": 0}),
        Call("EpisodeLoader.load_state_dict", metabridge.EpisodeLoader(dataset, 2, 3).load_state_dict,
             {"state": metabridge.EpisodeLoader(dataset, 2, 3).state_dict()}),
        Call("SupervisedView", metabridge.SupervisedView, {"dataset": bare, "seed": 0}),
        Call("SupervisedView.__getitem__", metabridge.SupervisedView(bare).__getitem__, {"index": 3}),
        Call("SupervisedView.gather", metabridge.SupervisedView(bare).gather, {"indices": [0, 3]}),
        Call("EpisodeBatch.__getitem__", dataset.episodes([0], seed=0).__getitem__, {"name": "train"}),
        Call("EpisodePlan.__getitem__", dataset.plan(0, [0, 1]).__getitem__, {"rows": slice(0, 1)}),
        Call("evaluation_loader", evaluation_loader,
             {"dataset": dataset, "episodes": 4, "batch_size": 2, "seed": 0}),
        Call("mean_and_ci95", mean_and_ci95, {"values": [0.1, 0.2]}),
        Call("make_run", make_run,
             {"dataset": "sinusoid", "variant": None, "root": str(folder), "ways": None, "shots": 2, "test_shots": 3,
              "algorithm": "maml", "inner_steps": 1, "inner_lr": 0.1, "first_order": False, "network": "mlp",
              "hidden": (4,), "meta_optimiser": "adam", "meta_lr": 0.1, "meta_batch_size": 2, "steps": 3, "seed": 0}),
        Call("load_backend", load_backend, {"name": "torch", "device": "cpu", "dtype": "float32"}),
        Call("compare", compare,
             {"run": _run(), "meta_train": line, "meta_test": line, "device": "cpu", "progress": False},
             kept=("progress",)),
        Call("algorithm_record", configs.algorithm_record, {"name": "maml"}),
        Call("EpisodeConfig", configs.EpisodeConfig, {"ways": 5, "shots": 1, "test_shots": 2}),
        Call("ModelConfig", configs.ModelConfig,
             {"name": "conv4", "input_shape": (28, 28, 1), "outputs": 3, "hidden": (4, 4, 4, 4)}),
        Call("OptimiserConfig", configs.OptimiserConfig,
             {"name": "adam", "learning_rate": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "momentum": 0.0}),
        Call("RunConfig", configs.RunConfig,
             {"dataset": "sinusoid", "variant": None, "episode": _run().episode, "model": _run().model,
              "algorithm": _run().algorithm, "optimiser": _run().optimiser, "meta_batch_size": 2, "steps": 1,
              "seed": 0}),
        Call("RunConfig.from_dict", configs.RunConfig.from_dict, {"values": _run().to_dict()}),
        Call("network_layers", network_layers, {"model": _run().model}),
        Call("initial_parameters", initial_parameters, {"model": _run().model, "seed": 0}),
        Call("parameter_shapes", parameter_shapes, {"model": _run().model}),
        Call("relative_difference", relative_difference,
             {"first": initial_parameters(_run().model, 0), "second": initial_parameters(_run().model, 1)}),
        Call("save_parameters", save_parameters,
             {"path": folder / "parameters.h5", "parameters": initial_parameters(_run().model, 0)}),
        Call("load_parameters", load_parameters, {"path": _saved(folder)}),
        Call("stream_key", streams.stream_key, {"purpose": "fuzz", "seed": 0, "meta_split": "train"}),
        Call("philox_words", streams.philox_words,
             {"key": streams.stream_key("fuzz", 0, "train"), "indices": np.arange(2), "num_words": 3, "lane": 0}),
        Call("bounded_integers", streams.bounded_integers, {"words": np.arange(3, dtype=np.uint64), "bound": 5}),
        Call("choose_without_replacement", streams.choose_without_replacement,
             {"words": np.arange(3, dtype=np.uint64), "population": 5}),
        Call("normals", streams.normals, {"words": np.arange(4, dtype=np.uint64)}),
        Call("uniforms", streams.uniforms, {"words": np.arange(3, dtype=np.uint64), "low": 0.0, "high": 1.0}),
    ]  # fmt: skip
    for name in ("MAMLConfig", "ANILConfig", "FOMAMLConfig", "MetaSGDConfig"):
        record = getattr(configs, name)
        calls.append(Call(name, record, {"inner_steps": 1, "inner_lr": 0.1, "first_order": name == "FOMAMLConfig"}))
    for kind in (toy.Sinusoid, toy.Harmonic, toy.SinusoidAndLine):
        arguments = {"num_samples_per_task": 5, "num_tasks": 100, "noise_std": 0.1, "meta_split": "train"}
        calls.append(Call(kind.__name__, kind, {**arguments, "dataset_transform": splitter}))
        calls.append(Call(f"{kind.__name__}.flags", kind, {"num_samples_per_task": 5, "meta_train": True}))
    for function in (toy_helpers.sinusoid, toy_helpers.harmonic, toy_helpers.sinusoid_and_line):
        calls.append(Call(function.__name__, function, {"shots": 2, "shuffle": True, "test_shots": 3, "seed": 0}))
    return calls


def _saved(folder: Path) -> Path:
    save_parameters(folder / "saved.h5", initial_parameters(_run().model, 0))
    return folder / "saved.h5"


def _source_calls(folder: Path) -> list[Call]:
    images = _images()
    examples = np.concatenate([images.gather(np.full(6, i), np.arange(6)) for i in range(8)])
    labels = np.repeat(np.arange(8), 6)
    pairs = [(Image.fromarray(example[..., 0]), int(label)) for example, label in zip(examples, labels, strict=True)]
    for name in ("cats", "dogs", "mice", "owls"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(4):
            pairs[number][0].save(folder / "images" / name / f"{number}.png")
    names = [f"class{i}" for i in range(8)]
    sources.save_source(images, folder / "store.h5", progress=False)
    pictures = np.zeros((2, 8, 8, 1), np.uint8)
    words = np.zeros((2, 0), np.uint64)
    calls = [
        Call("ArraySource.from_classes", sources.ArraySource.from_classes,
             {"classes": {"a": examples[:6], "b": examples[6:12]}}),
        Call("ArraySource.from_labels", sources.ArraySource.from_labels,
             {"examples": examples, "labels": labels, "class_names": names}),
        Call("ArraySource", sources.ArraySource,
             {"examples": examples, "class_starts": np.arange(8) * 6, "class_sizes": np.full(8, 6),
              "class_names": names}),
        Call("ClassDatasetSource", sources.ClassDatasetSource,
             {"dataset": [[pair[0] for pair in pairs[:4]], [pair[0] for pair in pairs[4:8]]], "resize": 8, "mode": "L",
              "identity": "abc"}),
        Call("HDF5Source", sources.HDF5Source, {"path": folder / "store.h5", "check_examples": True}),
        Call("ImageFolderSource", sources.ImageFolderSource,
             {"folder": folder / "images", "resize": 8, "mode": "L"}),
        Call("LabelledSource", sources.LabelledSource,
             {"dataset": pairs, "labels": labels, "class_names": names, "image_column": "image",
              "label_column": "label", "resize": 8, "mode": "L", "identity": "abc", "progress": False}),
        Call("source.gather", images.gather, {"class_ids": np.array([0, 1]), "example_ids": np.array([1, 2])}),
        Call("source.select", images.select, {"class_ids": [0, 1]}),
        Call("filter_classes", sources.filter_classes,
             {"source": images, "keep": {"class0", "class1"}.__contains__, "min_examples": 2}),
        Call("in_memory", sources.in_memory, {"source": images, "progress": False}),
        Call("rename_classes", sources.rename_classes, {"source": images, "names": {"class0": "zero"}}),
        Call("save_source", sources.save_source,
             {"source": images, "path": folder / "copy.h5", "provenance": {"from": "here"}, "progress": False}),
        Call("split_classes", sources.split_classes, {"source": images, "fractions": {"train": 0.5, "test": 0.5}}),
        Call("split_classes, names", sources.split_classes,
             {"source": images, "classes": {"train": names[:4], "test": names[4:]}, "seed": 0}),
        Call("union", sources.union, {"*sources": sources.rename_classes(images, {n: f"b{n}" for n in names}),
                                      "*others": images}),
        Call("few_shot", few_shot,
             {"source": images, "ways": 2, "shots": 1, "test_shots": 2, "split_seed": 0,
              "fractions": {"train": 0.5, "val": 0.25, "test": 0.25}, "shuffle": True, "seed": 0}),
        Call("few_shot, folder", few_shot,
             {"source": folder / "images", "ways": 2, "shots": 1, "resize": 8, "mode": "L",
              "classes": {"train": ["cats", "dogs"], "test": ["mice", "owls"]}}),
        Call("Categorical", transforms.Categorical, {"num_classes": 5}),
        Call("CenterCrop", transforms.CenterCrop, {"size": 4}),
        Call("ColorJitter", transforms.ColorJitter, {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1}),
        Call("Normalize", transforms.Normalize, {"mean": [0.5], "std": [0.5]}),
        Call("RandomCrop", transforms.RandomCrop, {"size": 4, "padding": 1}),
        Call("RandomHorizontalFlip", transforms.RandomHorizontalFlip, {"p": 0.5}),
        Call("Resize", transforms.Resize, {"size": 4}),
        Call("Rotation", transforms.Rotation, {"angle": 90}),
        Call("expand_class_augmentations", transforms.expand_class_augmentations,
             {"augmentations": [transforms.HorizontalFlip()]}),
        Call("expand_transforms", transforms.expand_transforms, {"transform": [transforms.Resize(4)]}),
        Call("transform_images", transforms.transform_images,
             {"transforms": (transforms.Resize(4),), "images": pictures, "words": [words]}),
    ]  # fmt: skip
    return calls


def _dataset_calls(folder: Path) -> list[Call]:
    calls = []
    for name in ("Bach", "CIFARFS", "Omniglot", "Pascal5i"):
        arguments: dict[str, Any] = {"root": folder, "num_classes_per_task": 2, "meta_train": True}
        calls.append(Call(name, getattr(datasets, name), {**arguments, "meta_split": None, "transform": None}))
    for name in ("letter", "omniglot", "pascal5i"):
        arguments = {"folder": folder, "shots": 1, "ways": 2, "shuffle": True, "test_shots": 2, "seed": 0}
        calls.append(Call(name, getattr(dataset_helpers, name), {**arguments, "meta_train": True}))
    return calls


def _backend_calls(framework: str) -> list[Call]:
    def part(name: str) -> Any:
        return importlib.import_module(f"{framework}_backend.{name}")

    algorithms, data, modules, optimisers = part("algorithms"), part("data"), part("modules"), part("optimisers")
    functional, adaptation, weights = part("functional"), part("adaptation"), part("weights")
    array = (
        importlib.import_module("torch").tensor
        if framework == "torch"
        else importlib.import_module("jax").numpy.asarray
    )
    config = configs.ModelConfig("mlp", (1,), 1, (3,))
    model = part("models").build_model(config)
    params = dict(model.meta_named_parameters())
    neutral = initial_parameters(config, 0)
    line = toy_helpers.sinusoid(2, test_shots=3)
    batch = data.to_backend(line.episodes([0, 1], seed=0))
    inputs, targets = (each[0] for each in batch["train"])
    sgd, loss = optimisers.sgd(0.1), functional.mean_squared_error
    maml = algorithms.MAML(model, loss, optimiser=sgd)
    outputs, classes = array(np.ones((4, 3), np.float32)), array(np.array([0, 1, 2, 0]))
    learner = part("training").Learner(_run(), initial_parameters(_run().model, 0), "float32", _device(framework))
    first = data.to_backend(line.episodes([0], seed=0))
    base: dict[str, Any] = {"model": model, "loss": loss}
    calls = [
        Call("adapt", adaptation.adapt,
             {**base, "inputs": inputs, "targets": targets, "optimiser": sgd, "steps": 1, "params": params,
              "buffers": None, "names": None, "batch_norm": "batch",
              "adjoint": part("adjoints").Unrolled()}),
        Call("complete_parameters", adaptation.complete_parameters, {"model": model, "params": params}),
        Call("gradient_update_parameters", adaptation.gradient_update_parameters,
             {"model": model, "loss": lambda values: loss(model(inputs, params=values), targets), "params": params,
              "step_size": 0.1, "first_order": False, "names": None}),
        Call("per_step_buffers", adaptation.per_step_buffers, {"model": model, "steps": 2}),
        Call("MAML", algorithms.MAML,
             {**base, "optimiser": sgd, "steps": 1, "names": None, "adjoint": part("adjoints").Unrolled(),
              "task_map": "auto"}),
        Call("ANIL", algorithms.ANIL, {**base, "optimiser": sgd, "steps": 1, "names": "*"}),
        Call("FirstOrderMAML", algorithms.FirstOrderMAML, {**base, "optimiser": sgd, "steps": 1}),
        Call("MetaSGD", algorithms.MetaSGD, {**base, "steps": 1}),
        Call("Prototypical", algorithms.Prototypical, {"model": model, "ways": 3, "task_map": "auto"}),
        Call("MAML.loss", maml.loss, {"params": params, "batch": batch}),
        Call("MAML.meta_gradient", maml.meta_gradient, {"params": params, "batch": batch}),
        Call("MAML.adapt", maml.adapt, {"params": params, "inputs": inputs, "targets": targets, "steps": 1}),
        Call("MAML.predict", maml.predict, {"params": params, "batch": batch, "steps": 1}),
        Call("as_model", part("apply").as_model, {"model": model}),
        Call("Backend", part("backend").Backend, {"device": "cpu", "dtype": "float32"}),
        Call("Backend.learner", part("backend").Backend("cpu").learner,
             {"run": _run(), "parameters": initial_parameters(_run().model, 0)}),
        Call("Learner.step", learner.step, {"batch": first}),
        Call("Learner.meta_gradient", learner.meta_gradient, {"batch": first}),
        Call("Learner.evaluate", learner.evaluate, {"batch": first, "inner_steps": 1}),
        Call("Learner.load_state", learner.load_state, {"state": learner.state()}),
        Call("BatchMetaDataLoader", _first(data.BatchMetaDataLoader),
             {"dataset": line, "batch_size": 2, "seed": 0, "num_batches": 2, "shard": (0, 1), "start": 0}),
        Call("BatchMetaDataLoader, images", _first(data.BatchMetaDataLoader),
             {"dataset": _episodes(), "batch_size": 2}),
        Call("feed", _first(data.feed),
             {"loader": metabridge.EpisodeLoader(line, 2, 2), "device": "cpu", "dtype": None}
             if framework == "torch" else {"loader": metabridge.EpisodeLoader(line, 2, 2), "dtype": None}),
        Call("to_backend", data.to_backend, {"batch": line.episodes([0, 1], seed=0)}),
        Call("to_numpy", data.to_numpy, {"data": batch}),
        Call("descend", part("descent").descend,
             {"loss": lambda values: (values["w"] ** 2).sum(), "params": {"w": array([1.0, 2.0])}, "optimiser": sgd,
              "steps": 2, "adjoint": part("adjoints").Unrolled(), "state": None, "per_step": None, "has_aux": False}),
        Call("evaluate", part("evaluation").evaluate,
             {"algorithm": maml, "params": params, "dataset": line, "episodes": 4, "batch_size": 2, "steps": 1,
              "measure": None, "seed": 0, "progress": False}),
        Call("task_qualities", part("evaluation").task_qualities,
             {"algorithm": maml, "params": params, "batch": batch, "steps": 1, "measure": None}),
        Call("accuracy", functional.accuracy, {"outputs": outputs, "targets": classes, "ignore_index": -100}),
        Call("cross_entropy", functional.cross_entropy, {"outputs": outputs, "targets": classes, "ignore_index": -100}),
        Call("mean_squared_error", loss, {"outputs": outputs, "targets": outputs}),
        Call("get_prototypes", functional.get_prototypes,
             {"embeddings": outputs, "targets": classes, "num_classes": 3}),
        Call("squared_distances", functional.squared_distances, {"points": outputs, "centres": outputs}),
        Call("build_model", part("models").build_model, {"config": config}),
        Call("as_meta_module", modules.as_meta_module, {"module": _plain(framework), "batch_norm": "batch"}),
        Call("call_with_buffers", modules.call_with_buffers,
             {"*model": model, "*inputs": inputs, "params": params, "buffers": None, "batch_norm": "batch"}),
        Call("MetaModule.__call__", model, {"*inputs": inputs, "params": params}, kept=("*inputs",)),
        Call("get_subdict", model.get_subdict, {"params": params, "key": next(iter(params)).split(".")[0]}),
        Call("sgd", optimisers.sgd, {"learning_rate": 0.1, "momentum": 0.5, "nesterov": True}),
        Call("adam", optimisers.adam,
             {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "eps_root": 1e-30}),
        Call("chain", optimisers.chain, {"*optimisers": sgd, "*others": optimisers.clip_by_global_norm(1.0)}),
        Call("clip_by_global_norm", optimisers.clip_by_global_norm, {"max_norm": 1.0}),
        Call("from_config", optimisers.from_config, {"config": configs.OptimiserConfig()}),
        Call("sgd.update", optimisers.sgd(0.1).update,
             {"*gradients": params, "*state": optimisers.sgd(0.1).init(params), "*params": params}),
        Call("adam.init", optimisers.adam(0.1).init, {"*params": params}),
        Call("map_tasks", part("tasks").map_tasks,
             {"function": lambda task: task["train"][0].sum(), "batch": batch, "task_map": "vectorised"}),
        Call("mean_gradient", part("tasks").mean_gradient,
             {"loss": lambda values, task: (values["w"] * task["train"][0]).sum(), "params": {"w": array([1.0])},
              "batch": batch, "task_map": "sequential"}),
        Call("from_neutral", weights.from_neutral,
             {"parameters": neutral, "model": config, "dtype": None, "device": None}),
        Call("load_neutral", weights.load_neutral,
             {"model": part("models").build_model(config), "parameters": neutral}),
        Call("read_neutral", weights.read_neutral, {"model": model}),
        Call("to_neutral", weights.to_neutral, {"params": params, "model": config}),
        *(_jax_layers(modules) if framework == "jax" else _torch_only(part)),
    ]  # fmt: skip
    named = [Call(f"{framework}: {call.name}", call.function, call.arguments, call.kept) for call in calls]
    return named


def _device(framework: str) -> Any:
    if framework == "torch":
        return importlib.import_module("torch").device("cpu")
    return importlib.import_module("jax").devices("cpu")[0]


def _plain(framework: str) -> Any:
    if framework == "torch":
        return importlib.import_module("torch").nn.Linear(2, 2)
    nnx = importlib.import_module("flax.nnx")
    return nnx.Linear(2, 2, rngs=nnx.Rngs(0))


def _torch_only(part: Callable[[str], Any]) -> list[Call]:
    """Names for Torchmeta's scripts. Constructors of layers are PyTorch's own, and so are their errors."""
    torchmeta = part("torchmeta")
    return [
        Call("torchmeta.MetaDataLoader", _first(torchmeta.MetaDataLoader), {"dataset": _episodes(), "batch_size": 2}),
        Call("torchmeta.Sinusoid", torchmeta.Sinusoid,
             {"num_samples_per_task": 5, "num_tasks": 9, "noise_std": 0.1, "transform": None}),
        Call("torchmeta.get_subdict", torchmeta.get_subdict, {"dictionary": {"a.b": 1}, "key": "a"}),
    ]  # fmt: skip


def _jax_layers(modules: Any) -> list[Call]:
    """Constructors of the layers, which are this project's own."""
    rngs = importlib.import_module("flax.nnx").Rngs(0)
    conv = {"in_channels": 2, "out_channels": 2, "kernel_size": 1, "stride": 1, "padding": 1, "groups": 1}
    cell = {"input_size": 2, "hidden_size": 2, "bias": True}
    norm = {"num_features": 2, "eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
    layers: dict[str, dict[str, Any]] = {
        **{f"MetaBatchNorm{n}d": norm for n in (1, 2, 3)},
        **{f"MetaInstanceNorm{n}d": norm for n in (1, 2, 3)},
        **{f"MetaConv{n}d": {**conv, "dilation": 1, "bias": True, "padding_mode": "zeros"} for n in (1, 2, 3)},
        **{f"MetaConvTranspose{n}d": {**conv, "output_padding": 0, "bias": True} for n in (1, 2, 3)},
        **{f"Meta{kind}Cell": cell for kind in ("GRU", "LSTM", "RNN")},
        "MetaLinear": {"in_features": 2, "out_features": 2, "bias": True},
        "MetaBilinear": {"in1_features": 2, "in2_features": 2, "out_features": 2, "bias": True},
        "MetaEmbedding": {"num_embeddings": 4, "embedding_dim": 2, "padding_idx": 0},
        "MetaEmbeddingBag": {"num_embeddings": 4, "embedding_dim": 2, "mode": "mean", "padding_idx": 0},
        "MetaGroupNorm": {"num_groups": 2, "num_channels": 4, "eps": 1e-5, "affine": True},
        "MetaLayerNorm": {"normalized_shape": (2,), "eps": 1e-5, "elementwise_affine": True},
        "MetaRMSNorm": {"normalized_shape": (2,), "eps": None, "elementwise_affine": True},
        "MetaMultiheadAttention": {"embed_dim": 4, "num_heads": 2, "kdim": None, "vdim": None, "batch_first": False},
        "MetaPReLU": {"num_parameters": 1, "init": 0.25},
        "MaxPool2d": {"kernel_size": 2, "stride": 2, "padding": 0},
        "MetaModuleDict": {"modules": {"a": modules.MetaLinear(2, 2, rngs=rngs)}},
        "MetaModuleList": {"modules": [modules.MetaLinear(2, 2, rngs=rngs)]},
    }
    calls = []
    for name, arguments in layers.items():
        kind = getattr(modules, name)
        takes_rngs = "rngs" in inspect.signature(kind.__init__).parameters
        calls.append(Call(name, kind, {**arguments, "rngs": rngs} if takes_rngs else arguments, kept=()))
    return calls


def main() -> int:
    """Run the fuzzer and print its findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="pattern of the names of calls")
    options = parser.parse_args()
    faulthandler.enable(sys.__stderr__)
    out = sys.stdout
    made, findings = fuzz(
        options.calls, options.seed, lambda finding: print(finding, file=out, flush=True), options.only
    )
    print(f"{made} calls, {len(findings)} findings: {dict(Counter(finding.kind for finding in findings))}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
