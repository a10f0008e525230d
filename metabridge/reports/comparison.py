"""The report of a comparison: `compare.json`, pictures, and `report.html`, one file that needs no network."""

import base64
import html
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.comparison.findings import NAMES, Comparison
from metabridge.networks.parameters import save_parameters
from metabridge.reports.figures import draw_accuracy, draw_adaptation, draw_losses, draw_received_episodes
from metabridge.storage.atomic import replacing_together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["summary_rows", "verdict", "write_report"]


_REPORT = "report.html"
_FIGURES = ("episodes", "losses", "adaptation")
_FORMATS = ("png", "svg")
_FILES = (
    "compare.json",
    *(f"{name}.{kind}" for name in _FIGURES for kind in _FORMATS),
    *(f"parameters_{name}.h5" for name in NAMES),
)


def write_report(comparison: Comparison, folder: str | Path, command: str = "") -> Path:
    """Write everything about a comparison into `folder` and return the path of `report.html`.

    `report.html`, `compare.json`, the pictures `episodes`, `losses` and, for algorithms with inner steps, `adaptation`
    as PNG and SVG, and the trained float32 parameters of each backend as `parameters_<backend>.h5`, which either
    backend can load. They take the place of an earlier report's files together, when all are written.

    Args:
        comparison: what was found.
        folder: made if missing; other files in it are left alone.
        command: the command that repeats the comparison.
    """
    target = Path(folder)
    with replacing_together(target, _FILES, _REPORT) as new:
        figures = _figures(comparison)
        for name, figure in figures.items():
            for kind in _FORMATS:
                (new / f"{name}.{kind}").write_bytes(_drawn(figure, kind))
        for name in NAMES:
            save_parameters(new / f"parameters_{name}.h5", comparison.backends[name].parameters)
        content = {**comparison.to_dict(), "command": command}
        (new / "compare.json").write_text(json.dumps(content, indent=2) + "\n")
        pictures = {name: (new / f"{name}.png").read_bytes() for name in figures}
        (new / _REPORT).write_text(_page(comparison, pictures, command), encoding="utf-8")
    return target / _REPORT


def _figures(comparison: Comparison) -> "dict[str, Figure]":
    figures = {"episodes": draw_received_episodes(comparison), "losses": draw_losses(comparison)}
    if comparison.curves is not None:
        figures["adaptation"] = draw_adaptation(comparison.curves)
    elif comparison.run.algorithm.has_inner_steps and comparison.run.episode.ways is not None:
        figures["adaptation"] = draw_accuracy(comparison)
    return figures


def _drawn(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def verdict(comparison: Comparison) -> str:
    """One sentence: the backends agree, or what differs."""
    found = comparison.disagreements()
    return (
        " ".join(found) if found else "PyTorch and JAX ran the same meta-training: same episodes, same meta-gradients."
    )


def summary_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Rows of the table: (measure, value, limit or remark)."""
    episodes, gradient, trajectory = comparison.episodes, comparison.meta_gradient, comparison.trajectory
    limits, quality = comparison.limits, comparison.quality_name
    error, share = gradient.finite_difference_error, gradient.second_order_share
    rows = [
        ("identical episodes", f"{episodes.identical} of {episodes.total}", "all, bit for bit"),
        ("meta-gradient, relative error", f"{gradient.max_relative_error:.1e}", f"at most {limits.meta_gradient:g}"),
        ("meta-gradient against finite differences", "—", "not asked: the update is not the gradient of the meta-loss")
        if error is None
        else ("meta-gradient against finite differences", f"{error:.1e}", f"at most {limits.finite_difference:g}"),
        ("second-order share of the meta-gradient", "—", "not asked: there are no second derivatives")
        if share is None
        else ("second-order share of the meta-gradient", f"{share:.3f}", f"at least {limits.second_order_share:g}"),
        *_first_order_rows(comparison),
        (
            f"loss difference over {len(trajectory.differences)} meta-steps",
            f"{trajectory.scaled_differences.max():.1e}",
            f"at most {limits.loss_difference:g}, relative above 1",
        ),
        ("parameter difference after them, relative", f"{trajectory.max_relative_parameter_difference:.1e}", ""),
    ]
    for name in NAMES:
        training = comparison.backends[name]
        time = "—" if training.meta_step_ms is None else f"{training.meta_step_ms:.2f} ms"
        rows.append((f"{name} {training.version}: meta-step", time, f"float32, median, {training.device}"))
        quality_text = f"{training.quality:.4f} ± {training.quality_ci95:.4f}"
        before = "" if training.quality_before is None else f"{training.quality_before:.4f} before adaptation"
        rows.append((f"{name}: test {quality}", quality_text, before))
    return rows


def _first_order_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The rows of an algorithm that leaves second derivatives out."""
    gradient, limits = comparison.meta_gradient, comparison.limits
    share, error = gradient.omitted_share, gradient.first_order_error
    if share is None or error is None:
        return []
    return [
        ("second-order share left out of the meta-gradient", f"{share:.3f}", f"at least {limits.second_order_share:g}"),
        ("meta-gradient against the first-order one", f"{error:.1e}", f"at most {limits.meta_gradient:g}"),
    ]


_CAPTIONS = {
    "episodes": "The first episodes in float32, brought back from each framework's own memory. They are compared bit "
    "for bit, not by eye; the pictures show what the numbers are about.",
    "losses": "Above: the float32 runs that the speed and quality figures come from. Below: the difference between the "
    "losses of the two float64 runs, meta-step by meta-step, and its limit: absolute, and relative where losses exceed "
    "1, as rounding is.",
    "adaptation": "Test tasks no network has trained on, in float32: both networks before adaptation and after it, "
    "trained on the same episodes from the same initial parameters. Thin lines: after more inner steps than in "
    "training.",
    "accuracy": "Mean accuracy on the query sets of {episodes} test episodes, in float32, before adaptation (0 inner "
    "steps) and after it, by both networks, trained on the same episodes from the same initial parameters. Bars: 95 % "
    "confidence intervals of the mean.",
}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2.5em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.1em; margin-top: 2.2em; }
.verdict { padding: .8em 1em; border-radius: 6px; } .yes { background: #e7f4ea; } .no { background: #fdeaea; }
table { border-collapse: collapse; width: 100%; } td { padding: .3em .8em .3em 0; border-bottom: 1px solid #e5e5e5; }
td:nth-child(2) { font-variant-numeric: tabular-nums; white-space: nowrap; }
td:nth-child(3), figcaption, .sub { color: #666; } figure { margin: 0; } img { max-width: 100%; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  body { margin: 1em auto; padding: 0 1em; overflow-wrap: anywhere; }
  tr { display: block; padding: .5em 0; border-bottom: 1px solid #e5e5e5; }
  td { display: block; padding: 0; border: 0; } td:nth-child(2) { white-space: normal; font-weight: 600; }
  .wide { overflow-x: auto; } .wide img { max-width: none; width: 760px; }
}
"""


def _page(comparison: Comparison, pictures: dict[str, bytes], command: str) -> str:
    agrees = not comparison.disagreements()
    table = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in summary_rows(comparison)
    )
    figures = "\n".join(_figure_block(name, png, _caption(comparison, name)) for name, png in pictures.items())
    repeated = f'<pre class="command">{html.escape(command)}</pre>\n' if command else ""
    manifest = html.escape(json.dumps(comparison.manifest, indent=2))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>metabridge: {html.escape(comparison.run.dataset)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>One meta-training, two frameworks</h1>
<p class="sub">{html.escape(_describe(comparison))}</p>
<p class="verdict {"yes" if agrees else "no"}">{html.escape(verdict(comparison))}</p>
<table>
{table}
</table>
{figures}
<h2>To repeat this run</h2>
{repeated}<details><summary>Versions, configuration, seed and fingerprints</summary><pre>{manifest}</pre></details>
</body>
</html>
"""


def _describe(comparison: Comparison) -> str:
    run = comparison.run
    name = run.dataset if run.variant is None else f"{run.dataset} ({run.variant})"
    task = (
        f"{run.episode.shots}-shot regression"
        if run.episode.ways is None
        else f"{run.episode.ways}-way {run.episode.shots}-shot"
    )
    outer = f"{run.steps} meta-steps of {run.meta_batch_size} tasks, {run.optimiser.describe()}"
    network = f"{run.model.name} ({'-'.join(map(str, run.model.hidden))})"
    return f"{name}, {task}, {run.algorithm.describe()}, {network}, {outer}, seed {run.seed}"


def _caption(comparison: Comparison, name: str) -> str:
    key = "accuracy" if name == "adaptation" and comparison.curves is None else name
    return _CAPTIONS[key].format(episodes=comparison.run.test_episodes)


def _figure_block(name: str, png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<h2>{name.capitalize()}</h2>\n<figure><div class="wide"><img alt="{name}" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{html.escape(caption)}</figcaption></figure>'
    )
