"""The pictures of episodes and comparisons, drawn with matplotlib's object interface: no window, no global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from metabridge.metadatasets import CombinationMetaDataset, MetaDataset
from metabridge.toy import ToyMetaDataset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metabridge.batches import EpisodeBatch
    from metabridge.compare import AdaptationCurves, Comparison

__all__ = ["draw_adaptation", "draw_episode", "draw_episodes", "draw_losses"]

_COLOURS = {"torch": "#D55E00", "jax": "#0072B2"}  # distinguishable without colour vision (Okabe & Ito 2008)
_LABELS = {"torch": "PyTorch", "jax": "JAX"}
_GREY = "#666666"
_FLOOR = 1e-17  # where exact equality is drawn on a logarithmic axis
_MOST_QUERIES = 8


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color=_GREY)


def draw_episode(dataset: MetaDataset, batch: EpisodeBatch) -> Figure:
    """The first episode of a batch: a labelled contact sheet of images, or the points of a regression.

    Args:
        dataset: where the batch is from; a toy problem, or class combinations of images.
        batch: support set `"train"` and query set `"test"`.

    Raises:
        ValueError: for examples that are neither.
    """
    if isinstance(dataset, ToyMetaDataset):
        return _draw_points(dataset, batch)
    if batch.plan.counts is not None or list(batch) != ["train", "test"]:
        raise ValueError("`batch` must have a support set 'train' and a query set 'test' with equal numbers per class.")
    inputs = batch["train"][0]
    if not isinstance(dataset, CombinationMetaDataset) or inputs.ndim != 5:
        raise ValueError(f"`batch` must hold images or a regression to be drawn, got inputs of shape {inputs.shape}.")
    labels = batch.plan.labels[0].tolist()
    sheet, split_at = _contact_sheet(batch, len(labels))
    height, width = sheet.shape[:2]
    figure = _figure(9, 7.2 * height / width + 0.2)
    axes = figure.subplots()
    is_ink = inputs.mean() < 0.5  # writing is stored light on dark, and printed dark on light
    axes.imshow(sheet, cmap="gray_r" if is_ink else "gray", vmin=0, vmax=1, interpolation="nearest")
    axes.axvline(split_at, color=_COLOURS["jax"], linewidth=2)
    gap = -0.012 * width
    axes.text(split_at / 2, gap, "support", ha="center", va="bottom", fontsize=9, color=_GREY)
    axes.text((split_at + width) / 2, gap, "query", ha="center", va="bottom", fontsize=9, color=_GREY)
    cell = height / len(labels)
    names = [_name_of(class_id, dataset) for class_id in batch.plan.classes[0].tolist()]
    titles = [f"{name}  ({label})" for name, label in zip(names, labels, strict=True)]
    axes.set_yticks([cell * (row + 0.5) for row in range(len(labels))], titles, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _name_of(class_id: int, dataset: CombinationMetaDataset) -> str:
    """Short: what comes before the last two parts of a path says little in a picture."""
    names = dataset.source.class_names
    name = "/".join(names[class_id % len(names)].split("/")[-2:])
    augmentation = class_id // len(names)
    return f"{name}, {dataset.class_augmentations[augmentation - 1]!r}" if augmentation else name


def _draw_points(dataset: ToyMetaDataset, batch: EpisodeBatch) -> Figure:
    figure = _figure(6, 3.6)
    axes = figure.subplots()
    inputs = np.concatenate([batch[split][0][0, :, 0] for split in ("train", "test")]).astype(np.float64)
    grid = np.linspace(inputs.min(), inputs.max(), 400)
    axes.plot(grid, dataset.evaluate(batch.plan.classes[:1, 0], grid[None])[0], color="#BBBBBB", linewidth=3,
              label="true function")  # fmt: skip
    for split, role, marker, colour in (("test", "query", "o", "jax"), ("train", "support", "^", "torch")):
        x, y = (array[0, :, 0] for array in batch[split])
        axes.plot(x, y, marker, color=_COLOURS[colour], markersize=6, label=role, alpha=0.85)
    axes.set_xlabel("x", fontsize=9)
    axes.set_ylabel("y", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _tidy(axes)
    return figure


def draw_episodes(comparison: Comparison) -> Figure:
    """The first episodes, as PyTorch and as JAX received them."""
    inputs = comparison.example["torch"]["train"][0]
    return _draw_image_episode(comparison) if inputs.ndim == 5 else _draw_point_episodes(comparison)


def _draw_point_episodes(comparison: Comparison) -> Figure:
    figure = _figure(11, 2.9)
    shown = min(4, len(comparison.example["torch"]["train"][0]))
    panels = figure.subplots(1, shown, sharey=True, squeeze=False)[0]
    for episode, axes in enumerate(panels):
        for name, marker, size in (("torch", "o", 7), ("jax", "x", 4)):
            for split, role, alpha in (("train", "support", 1.0), ("test", "query", 0.45)):
                x, y = (array[episode, :, 0] for array in comparison.example[name][split])
                axes.plot(x, y, marker, color=_COLOURS[name], markersize=size, markerfacecolor="none", alpha=alpha,
                          label=f"{role}, as {_LABELS[name]} received it")  # fmt: skip
        axes.set_title(f"episode {episode}", fontsize=9)
        axes.set_xlabel("x", fontsize=9)
        axes.set_xlim(-5.4, 5.4)
        _tidy(axes)
    panels[0].set_ylabel("y", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw_image_episode(comparison: Comparison) -> Figure:
    """One episode: a row for every class, its support set on the left of its query set; once for each backend."""
    ways = comparison.run.episode.ways or 1
    sheets = {name: _contact_sheet(comparison.example[name], ways) for name in ("torch", "jax")}
    height, width = next(iter(sheets.values()))[0].shape[:2]
    figure = _figure(11, 5.0 * height / width + 0.75)
    for axes, (name, (sheet, split_at)) in zip(figure.subplots(1, 2), sheets.items(), strict=True):
        axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.axvline(split_at, color=_COLOURS[name], linewidth=1.5)
        axes.text(split_at / 2, -5, "support", ha="center", fontsize=8, color=_GREY)
        axes.text((split_at + width) / 2, -5, "query", ha="center", fontsize=8, color=_GREY)
        axes.set_title(f"as {_LABELS[name]} received it", fontsize=10, color=_COLOURS[name], pad=14)
        labels = comparison.example[name]["train"][1][0].reshape(ways, -1)[:, 0]
        cell = height / ways
        axes.set_yticks([cell * (row + 0.5) for row in range(ways)], [f"label {label}" for label in labels], fontsize=8)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def _contact_sheet(example: Mapping[str, Any], ways: int) -> tuple[npt.NDArray[np.floating], float]:
    """Episode 0 as one picture, and the column where the query set begins."""
    support, query = (example[split][0][0] for split in ("train", "test"))
    blocks = [images.reshape(ways, -1, *images.shape[1:]) for images in (support, query)]
    blocks[1] = blocks[1][:, :_MOST_QUERIES]
    rows = np.concatenate(blocks, axis=1)  # (N, shown, H, W, channels)
    padded = np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.12)
    count, shown, height, width, channels = padded.shape
    sheet = padded.transpose(0, 2, 1, 3, 4).reshape(count * height, shown * width, channels)
    return (sheet[..., 0] if channels == 1 else sheet), blocks[0].shape[1] * width - 0.5


def draw_losses(comparison: Comparison) -> Figure:
    """Both backends' loss curves, and below them the difference of the float64 runs."""
    figure = _figure(8, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for name, style in (("torch", "-"), ("jax", (0, (4, 3)))):
        losses = comparison.backends[name].losses
        steps = np.arange(len(losses))
        width = max(1, len(losses) // 50)
        if width > 1:
            upper.plot(steps, losses, color=_COLOURS[name], alpha=0.18, linewidth=0.7)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        label = _LABELS[name] + (f" (mean of {width} steps)" if width > 1 else "")
        upper.plot(steps[width - 1 :], smooth, color=_COLOURS[name], linestyle=style, linewidth=1.8, label=label)
    upper.set_ylabel("meta-objective, float32", fontsize=9)
    upper.legend(fontsize=8, frameon=False)
    differences = comparison.trajectory.differences
    equal = int((differences == 0).sum())
    lower.plot(np.maximum(differences, _FLOOR), ".", color="#333333", markersize=3)
    lower.axhline(comparison.limits.loss_difference, color="#B00020", linewidth=1)
    lower.text(0, comparison.limits.loss_difference * 0.4, "limit", color="#B00020", fontsize=8, va="top")
    lower.set_yscale("log")
    lower.set_ylim(_FLOOR / 3, max(comparison.limits.loss_difference, differences.max()) * 30)
    lower.set_ylabel("|PyTorch − JAX|, float64", fontsize=9)
    lower.xaxis.get_major_locator().set_params(integer=True)
    lower.set_xlabel(
        f"meta-step ({equal} of {len(differences)} losses equal to the last bit, drawn at {_FLOOR:g})", fontsize=9
    )
    for axes in (upper, lower):
        _tidy(axes)
    return figure


def draw_adaptation(curves: AdaptationCurves) -> Figure:
    """Test tasks before and after adaptation, by both trained networks."""
    figure = _figure(11, 3.1)
    panels = figure.subplots(1, len(curves.targets), sharey=True)
    steps = sorted(curves.predictions["torch"])
    before, after = steps[0], steps[-1]
    for task, axes in enumerate(panels):
        axes.plot(curves.inputs, curves.targets[task], color="#BBBBBB", linewidth=3.5, label="true function")
        axes.plot(curves.inputs, curves.predictions["torch"][before][task], ":", color=_GREY, linewidth=1.2,
                  label="before adaptation")  # fmt: skip
        for name, style in (("torch", "-"), ("jax", (0, (4, 3)))):
            axes.plot(curves.inputs, curves.predictions[name][after][task], linestyle=style, color=_COLOURS[name],
                      linewidth=1.6, label=f"{_LABELS[name]}, {after} inner steps")  # fmt: skip
        axes.plot(*(array[task] for array in curves.support), "^", color="#111111", markersize=5, label="support set")
        axes.set_title(f"test task {task}", fontsize=9)
        axes.set_xlabel("x", fontsize=9)
        _tidy(axes)
    panels[0].set_ylabel("y", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure
