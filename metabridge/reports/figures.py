"""The pictures of episodes and comparisons, drawn with matplotlib's object interface: no window, no global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metabridge.episodes.metadatasets import CombinationMetaDataset, MetaDataset
from metabridge.episodes.segmentation import SegmentationMetaDataset
from metabridge.toy import ToyMetaDataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metabridge.comparison.findings import AdaptationCurves, Comparison
    from metabridge.episodes.batches import EpisodeBatch

__all__ = ["draw_accuracy", "draw_adaptation", "draw_episode", "draw_received_episodes", "draw_losses"]

_COLOURS = {"torch": "#D55E00", "jax": "#0072B2"}  # distinguishable without colour vision (Okabe & Ito 2008)
_LABELS = {"torch": "PyTorch", "jax": "JAX"}
_GREY = "#666666"
_FLOOR = 1e-17  # where exact equality is drawn on a logarithmic axis
_MOST_SHOWN = 8
_LONGEST_NAME = 32
_LONGEST_TITLE = 46  # with an augmentation
_LOWEST_ROW = 0.24  # inches, for one line of text
_LETTER = 0.07  # inches, in the width of a title
_LINE = 0.08  # inches, for one feature vector


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color=_GREY)


def draw_episode(dataset: MetaDataset, batch: EpisodeBatch, title: str = "") -> Figure:
    """The first episode of a batch: a labelled contact sheet of images, with their masks for a segmentation; a line for
    every feature vector; or the points of a regression.

    Args:
        dataset: where the batch is from; a toy problem, or class combinations of images or vectors.
        batch: support set `"train"` and query set `"test"`.
        title: above the picture.

    Raises:
        ValueError: for examples that are neither.
    """
    figure = _draw_episode(dataset, batch)
    if title:
        figure.suptitle(_plain(title), fontsize=10, wrap=True)
    return figure


def _draw_episode(dataset: MetaDataset, batch: EpisodeBatch) -> Figure:
    if list(batch) != ["train", "test"]:
        raise ValueError(
            f"`batch` must have a support set 'train' and a query set 'test' to be drawn, got {', '.join(batch)}; "
            "attach a splitter with ClassSplitter(dataset, num_train_per_class=…, num_test_per_class=…)."
        )
    if batch.plan.is_weighted:
        raise ValueError(
            "`batch` must have equally many examples of every class to be drawn; draw one of a ClassSplitter "
            "instead of a WeightedClassSplitter."
        )
    if isinstance(dataset, ToyMetaDataset):
        return _draw_points(dataset, batch)
    inputs = batch["train"][0]
    if not isinstance(dataset, CombinationMetaDataset) or inputs.ndim not in (3, 5):
        raise ValueError(f"`batch` must hold images or vectors to be drawn, got inputs of shape {inputs.shape}.")
    if inputs.ndim == 5 and inputs.shape[-1] not in (1, 3):
        raise ValueError(f"`batch` must hold images of 1 or 3 channels to be drawn, got {inputs.shape[-1]}.")
    names = [_name_of(class_id, dataset) for class_id in batch.plan.classes[0].tolist()]
    titles = [f"{name}  ({label})" for name, label in zip(names, batch.plan.labels[0].tolist(), strict=True)]
    if inputs.ndim == 3:
        return _draw_vectors(batch, titles)
    if isinstance(dataset, SegmentationMetaDataset):
        titles = [names[0], "mask"]
        shown = _in_range(batch)
        sheet = _contact_sheet({name: _with_masks(shown[name], batch[name][1]) for name in batch}, 2)
    else:
        sheet = _contact_sheet(batch, len(titles))
    height, width = sheet.picture.shape[:2]
    # So that 5-way sheets fill a page's width, and a row of a 20-way sheet is no higher than its title needs.
    row = min(7.2 * height / width / len(titles), max(_LOWEST_ROW, 8 / len(titles)))
    scale = row * len(titles) / height
    figure = _figure(scale * width + _LETTER * max(map(len, titles)) + 0.3, scale * height + 0.3)
    axes = figure.subplots()
    _show_sheet(axes, sheet, titles, upright=min(scale * each for _, _, each in sheet.roles) < 8 * _LETTER)
    if isinstance(dataset, SegmentationMetaDataset):
        axes.set_xlabel("orange: object, white: ignored", fontsize=8, color=_GREY)
    return figure


def _in_range(example: Mapping[str, Any]) -> dict[str, npt.NDArray[np.floating]]:
    """The images of the first episode; normalised ones are brought back to [0, 1]."""
    low, high = _range_of([example])
    low, high = min(low, 0.0), max(high, 1.0)
    return {split: (example[split][0][0] - low) / (high - low) for split in ("train", "test")}


def _with_masks(
    images: npt.NDArray[np.floating], masks: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.floating], None]:
    """The first episode's images, and behind them the same with their masks: a row each in a contact sheet."""
    from matplotlib.colors import to_rgb

    images = np.broadcast_to(images, (*images.shape[:3], 3))
    mask = masks[0][..., None]
    object_, background = 0.3 * images + 0.7 * np.array(to_rgb(_COLOURS["torch"])), 0.35 * images
    masked = np.select([mask == 1, mask == 0], [object_, background], default=1.0)  # white where the mask is 255
    return np.concatenate([images, masked])[None], None


def _greys(images: npt.NDArray[np.floating]) -> str:
    """The colour map of images with one channel: writing is stored light on dark, and printed dark on light."""
    return "gray_r" if images.mean() < 0.5 else "gray"


def _name_of(class_id: int, dataset: CombinationMetaDataset) -> str:
    """The name of a class, short: the last two parts of a path suffice in a picture."""
    names = dataset.source.class_names
    short = _short(names[class_id % len(names)])
    augmentation = class_id // len(names)
    title = f"{short}, {dataset.class_augmentations[augmentation - 1]!r}" if augmentation else short
    return _plain(title)


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    name = "/".join(name.split("/")[-2:])
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _plain(text: str) -> str:
    """Text in which matplotlib sees no mathematics."""
    return text.replace("$", r"\$")


def _draw_points(dataset: ToyMetaDataset, batch: EpisodeBatch) -> Figure:
    figure = _figure(6, 3.6)
    axes = figure.subplots()
    inputs = np.concatenate([batch[split][0][0, :, 0] for split in ("train", "test")]).astype(np.float64)
    low, high = dataset.parameter_ranges.get("input", (inputs.min(), inputs.max()))
    grid = np.linspace(min(low, inputs.min()), max(high, inputs.max()), 400)
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


def draw_received_episodes(comparison: Comparison) -> Figure:
    """The first episodes of a comparison, as PyTorch and as JAX received them."""
    if comparison.run.episode.ways is None:
        return _draw_point_episodes(comparison)
    inputs = comparison.example["torch"]["train"][0]
    return _draw_image_episode(comparison) if inputs.ndim == 5 else _draw_vector_episode(comparison)


def _draw_point_episodes(comparison: Comparison) -> Figure:
    figure = _figure(11, 2.9)
    shown = min(4, len(comparison.example["torch"]["train"][0]))
    panels = figure.subplots(1, shown, sharex=True, sharey=True, squeeze=False)[0]
    for episode, axes in enumerate(panels):
        for name, marker, size in (("torch", "o", 7), ("jax", "x", 4)):
            for split, role, alpha in (("train", "support", 1.0), ("test", "query", 0.45)):
                x, y = (array[episode, :, 0] for array in comparison.example[name][split])
                axes.plot(x, y, marker, color=_COLOURS[name], markersize=size, markerfacecolor="none", alpha=alpha,
                          label=f"{role}, as {_LABELS[name]} received it")  # fmt: skip
        axes.set_title(f"episode {episode}", fontsize=9)
        axes.set_xlabel("x", fontsize=9)
        _tidy(axes)
    panels[0].set_ylabel("y", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw_image_episode(comparison: Comparison) -> Figure:
    """One episode: a row for every class, its support set on the left of its query set; once for each backend."""
    ways = comparison.run.episode.ways or 1
    sheets = {name: _contact_sheet(comparison.example[name], ways) for name in ("torch", "jax")}
    height, width = sheets["torch"].picture.shape[:2]
    figure = _figure(11, 4.3 * height / width + 0.75)
    for axes, (name, sheet) in zip(figure.subplots(1, 2), sheets.items(), strict=True):
        _show_sheet(axes, sheet, _row_titles(comparison, name))
        axes.set_title(f"as {_LABELS[name]} received it", fontsize=10, color=_COLOURS[name], pad=14)
    return figure


def _row_titles(comparison: Comparison, name: str) -> list[str]:
    """A line for every class of the first episode: its label as a backend received it, on the left with its name."""
    ways = comparison.run.episode.ways or 1
    labels = comparison.example[name]["train"][1][0].reshape(ways, -1)[:, 0]
    names = comparison.class_names if comparison.class_names and name == "torch" else ("",) * ways
    titles = (_plain(_short(title, _LONGEST_TITLE)) for title in names)
    return [f"{title}  ({label})".lstrip() for title, label in zip(titles, labels, strict=True)]


def _draw_vector_episode(comparison: Comparison) -> Figure:
    """One episode of feature vectors, once for each backend."""
    figure = _figure(11, 5.6)
    counts = comparison.run.episode.shots, comparison.run.episode.test_shots
    panels = figure.subplots(2, 2, sharex=True, height_ratios=[min(count, _MOST_SHOWN) for count in counts])
    ends = _range_of([comparison.example[name] for name in ("torch", "jax")])
    for column, name in zip(panels.T, ("torch", "jax"), strict=True):
        _show_vectors(column, comparison.example[name], _row_titles(comparison, name), ends, _COLOURS[name])
        column[0].set_title(f"as {_LABELS[name]} received it", fontsize=10, color=_COLOURS[name])
    return figure


def _draw_vectors(batch: EpisodeBatch, titles: Sequence[str]) -> Figure:
    """One episode of feature vectors."""
    bands = [max(_LINE * min(count, _MOST_SHOWN), _LOWEST_ROW) for _, count in batch.plan.splits]
    figure = _figure(7, max(sum(bands) * len(titles), 3) + 0.6)
    panels = figure.subplots(2, 1, sharex=True, height_ratios=bands)
    picture = _show_vectors(panels, batch, titles, _range_of([batch]), _COLOURS["jax"])
    figure.colorbar(picture, ax=panels, fraction=0.04, pad=0.02).ax.tick_params(labelsize=8)
    return figure


def _range_of(examples: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The smallest and the largest input of the first episode."""
    inputs = [example[split][0][0] for example in examples for split in ("train", "test")]
    return min(float(each.min()) for each in inputs), max(float(each.max()) for each in inputs)


def _show_vectors(
    panels: Sequence[Axes], example: Mapping[str, Any], titles: Sequence[str], ends: tuple[float, float], colour: str
) -> Any:
    """Support above query: a line for every example and a band for every class; returns the last picture."""
    for axes, (split, role) in zip(panels, (("train", "support"), ("test", "query")), strict=True):
        whole = np.stack(np.split(example[split][0][0], len(titles)))
        inputs = whole[:, :_MOST_SHOWN].reshape(-1, whole.shape[-1])
        low, high = ends
        picture = axes.imshow(inputs, cmap="gray_r", aspect="auto", interpolation="nearest", vmin=low, vmax=high)
        band = len(inputs) / len(titles)
        for row in range(1, len(titles)):
            axes.axhline(row * band - 0.5, color=colour, linewidth=1)
        axes.set_yticks([band * (row + 0.5) - 0.5 for row in range(len(titles))], titles, fontsize=8)
        axes.set_ylabel(role + _left_out(whole.shape[1]), fontsize=8, color=_GREY)
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
    axes.set_xlabel("feature", fontsize=9)
    return picture


class _Sheet(NamedTuple):
    """A contact sheet: a row of images for every class, support on the left of query."""

    picture: npt.NDArray[np.floating]
    colours: str
    roles: list[tuple[float, str, int]]  # the middle of each, what it is, and how wide


def _contact_sheet(example: Mapping[str, Any], rows: int) -> _Sheet:
    """Episode 0, as many rows as classes."""
    whole = [np.stack(np.split(images, rows)) for images in _in_range(example).values()]
    shown = [images[:, :_MOST_SHOWN] for images in whole]
    colours = _greys(whole[0])
    paper = 0.0 if colours == "gray_r" and whole[0].shape[-1] == 1 else 1.0
    support, query = (_tiles(images, paper) for images in shown)
    gap = np.full((len(support), len(support) // (6 * rows), support.shape[-1]), paper)
    roles = []
    starts = (0, support.shape[1] + gap.shape[1])
    for role, images, side, start in zip(("support", "query"), whole, (support, query), starts, strict=True):
        roles.append((start + side.shape[1] / 2, role + _left_out(images.shape[1]), side.shape[1]))
    return _Sheet(np.concatenate([support, gap, query], axis=1), colours, roles)


def _left_out(count: int) -> str:
    """A remark where a picture does not show all examples of a class."""
    return f" ({_MOST_SHOWN} of {count} shown)" if count > _MOST_SHOWN else ""


def _show_sheet(axes: Axes, sheet: _Sheet, titles: Sequence[str], upright: bool = False) -> None:
    height, width = sheet.picture.shape[:2]
    axes.imshow(sheet.picture, cmap=sheet.colours, vmin=0, vmax=1, interpolation="nearest")
    for place, role, _ in sheet.roles:
        angle = 90 if upright else 0
        axes.text(place, -0.01 * width, role, ha="center", va="bottom", fontsize=8, color=_GREY, rotation=angle)
    cell = height / len(titles)
    axes.set_yticks([cell * (row + 0.5) for row in range(len(titles))], titles, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _tiles(images: npt.NDArray[np.floating], paper: float) -> npt.NDArray[np.floating]:
    """`(rows, columns, H, W, channels)` side by side as one picture, with lines between."""
    line = abs(paper - 0.12) if images.shape[-1] == 1 else paper  # photographs fill their cells, writing does not
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=line)
    rows, columns, height, width, channels = padded.shape
    return padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


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
    upper.set_ylabel("meta-loss, float32", fontsize=9)
    upper.legend(fontsize=8, frameon=False)
    differences = comparison.trajectory.scaled_differences
    equal = int((differences == 0).sum())
    lower.plot(np.maximum(differences, _FLOOR), ".", color="#333333", markersize=3)
    lower.axhline(comparison.limits.loss_difference, color="#B00020", linewidth=1)
    lower.text(0, comparison.limits.loss_difference * 0.4, "limit", color="#B00020", fontsize=8, va="top")
    lower.set_yscale("log")
    lower.set_ylim(_FLOOR / 3, max(comparison.limits.loss_difference, differences.max()) * 30)
    lower.set_ylabel("loss difference, float64", fontsize=9)
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
    further = max(curves.predictions["torch"])  # than the run's own number; drawn thinner
    for task, axes in enumerate(panels):
        inputs = curves.inputs[task]
        axes.plot(inputs, curves.targets[task], color="#BBBBBB", linewidth=3.5, label="true function")
        axes.plot(inputs, curves.predictions["torch"][0][task], ":", color=_GREY, linewidth=1.2,
                  label="before adaptation")  # fmt: skip
        for name, style in (("torch", "-"), ("jax", (0, (4, 3)))):
            for steps in sorted({curves.inner_steps, further}):
                axes.plot(inputs, curves.predictions[name][steps][task], linestyle=style, color=_COLOURS[name],
                          linewidth=1.6 if steps == curves.inner_steps else 0.7,
                          label=f"{_LABELS[name]}, {steps} inner step{'' if steps == 1 else 's'}")  # fmt: skip
        axes.plot(*(array[task] for array in curves.support), "^", color="#111111", markersize=5, label="support set")
        axes.set_title(f"test task {task}", fontsize=9)
        axes.set_xlabel("x", fontsize=9)
        _tidy(axes)
    panels[0].set_ylabel("y", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 4 if len(labels) > 5 else 5
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def draw_accuracy(comparison: Comparison) -> Figure:
    """Accuracy on the query sets of the test episodes over the number of inner steps, by both trained networks."""
    figure = _figure(7, 3.6)
    axes = figure.subplots()
    steps: list[int] = []
    for name, style, shift in (("torch", "-", -1), ("jax", (0, (4, 3)), 1)):
        evaluations = comparison.backends[name].evaluations
        steps = sorted(evaluations)
        places = np.array(steps) + 0.006 * shift * max(steps)  # side by side, so that both intervals are seen
        means, intervals = ([getattr(evaluations[each], what) for each in steps] for what in ("mean", "ci95"))
        shown = np.nan_to_num(intervals, posinf=0)  # one episode has no interval
        axes.errorbar(places, means, yerr=shown, color=_COLOURS[name], linestyle=style, marker="o", markersize=4,
                      capsize=3, linewidth=1.6, label=_LABELS[name])  # fmt: skip
    axes.axvline(comparison.run.algorithm.inner_steps, color="#BBBBBB", linewidth=1, zorder=0)
    axes.axhline(1 / (comparison.run.episode.ways or 1), color="#BBBBBB", linestyle=":", linewidth=1.2, label="chance")
    axes.annotate("as in training", (comparison.run.algorithm.inner_steps, 0), xycoords=("data", "axes fraction"),
                  xytext=(3, 4), textcoords="offset points", fontsize=8, color=_GREY)  # fmt: skip
    axes.set_xticks(steps)
    axes.set_xlabel("inner steps", fontsize=9)
    axes.set_ylabel("query accuracy, float32", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    _tidy(axes)
    return figure
