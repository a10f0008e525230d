"""The comparison agrees where the backends do, and says what differs where they do not."""

import html
import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import metabridge.comparison.compare as compare_module
import metabridge.reports.comparison as report_module
from metabridge import EpisodeBatch, EpisodeLoader
from metabridge.backends import load_backend
from metabridge.cli.app import app
from metabridge.cli.common import print_table
from metabridge.cli.compare import repeating_command
from metabridge.comparison.compare import compare
from metabridge.configs import ALGORITHMS, RunConfig
from metabridge.datasets.catalogue import BENCHMARKS
from metabridge.networks.parameters import initial_parameters, load_parameters
from metabridge.reports.comparison import summary_rows, verdict, write_report
from metabridge.reports.figures import draw_adaptation, draw_losses
from metabridge.runs.recipes import RECIPES, make_meta_datasets, make_run

pytestmark = pytest.mark.xdist_group("compare")

RUN = make_run("sinusoid", shots=5, test_shots=5, meta_batch_size=4, steps=6, test_episodes=8)


@pytest.fixture(scope="module")
def comparison():
    return run_comparison()


def run_comparison(run=RUN):
    return compare(run, *make_meta_datasets(run, "unused"), device="cpu", progress=False)


class Altered:
    """A backend of which one thing is different."""

    def __init__(self, backend, feed=None, learner=None):
        self._backend = backend
        self.feed = feed or backend.feed
        self.learner = learner or backend.learner

    def __getattr__(self, name):
        return getattr(self._backend, name)


def alter(monkeypatch, change, name="jax"):
    def load(asked, device, dtype):
        backend = load_backend(asked, device, dtype)
        return change(backend) if asked == name else backend

    monkeypatch.setattr(compare_module, "load_backend", load)


def test_the_backends_agree(comparison):
    assert comparison.disagreements() == []
    assert verdict(comparison).startswith("PyTorch and JAX ran the same meta-training")


def test_all_episodes_arrive_bit_for_bit(comparison):
    found = comparison.to_dict()["episodes"]
    assert found["total"] == found["identical"] == RUN.meta_batch_size * RUN.steps
    assert found["received_digests"] == {"torch": found["digest"], "jax": found["digest"]}


def test_compare_json_has_the_promised_keys(comparison):
    found = comparison.to_dict()
    assert found["agrees"] is True
    assert {"total", "identical", "digest"} <= found["episodes"].keys()
    assert {"max_relative_error", "finite_difference_error", "second_order_share"} <= found["meta_gradient"].keys()
    assert found["trajectory"]["steps"] == RUN.steps
    assert {
        "max_abs_loss_difference",
        "max_scaled_loss_difference",
        "max_relative_parameter_difference",
    } <= found["trajectory"].keys()
    for name in ("torch", "jax"):
        assert {"version", "device", "meta_step_ms", "quality", "quality_ci95"} <= found["backends"][name].keys()
    manifest = found["manifest"]
    assert manifest["seed"] == RUN.seed
    assert type(RUN).from_dict(json.loads(json.dumps(manifest["run"]))) == RUN
    assert manifest["episodes"]["meta_train"]["fingerprint"] == make_meta_datasets(RUN, "unused")[0].fingerprint
    assert {"python", "numpy", "torch", "jax"} <= manifest["versions"].keys()


def test_float32_losses_are_those_of_a_run_by_hand(comparison):
    backend = load_backend("torch", "cpu")
    learner = backend.learner(RUN, initial_parameters(RUN.model, RUN.seed))
    loader = EpisodeLoader(make_meta_datasets(RUN, "unused")[0], RUN.meta_batch_size, RUN.steps, RUN.seed)
    losses = [float(learner.step(backend.receive(batch))) for batch in loader]
    np.testing.assert_array_equal(comparison.backends["torch"].losses, losses)


def test_report_is_one_file_without_network(comparison, tmp_path):
    report = write_report(comparison, tmp_path / "report")
    names = sorted(path.name for path in report.parent.iterdir())
    pictures = ["adaptation.png", "episodes.png", "losses.png"]
    drawings = [name.replace("png", "svg") for name in pictures]
    stored = ["parameters_jax.h5", "parameters_torch.h5", "report.html"]
    assert names == sorted([*pictures, *drawings, "compare.json", *stored])
    page = report.read_text()
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    for measure, value, _ in summary_rows(comparison):
        assert measure.split(" ")[0] in page
        assert value in page
    for picture in pictures:
        assert (report.parent / picture).read_bytes().startswith(b"\x89PNG")
    for drawing in drawings:
        assert "<svg" in (report.parent / drawing).read_text()
    found = json.loads((report.parent / "compare.json").read_text())
    assert found == json.loads(json.dumps({**comparison.to_dict(), "command": ""}))
    trained = load_parameters(report.parent / "parameters_jax.h5")
    assert trained.keys() == initial_parameters(RUN.model, 0).keys()


@pytest.mark.slow
def test_a_meta_batch_of_one_task_has_pictures_too(tmp_path):
    found = run_comparison(replace(RUN, meta_batch_size=1, steps=1))
    assert write_report(found, tmp_path).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["harmonic", "sinusoid_and_line"])
def test_every_toy_problem_has_pictures(problem, tmp_path):
    choices = "--shots 5 --test-shots 5 --steps 3 --meta-batch-size 2 --inner-steps 2 --test-tasks 8"
    command = ["compare", "--dataset", problem, *choices.split(), "--device", "cpu", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for picture in ("adaptation.png", "episodes.png", "losses.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_adaptation_is_shown_where_the_points_of_a_task_are():
    run = make_run("harmonic", meta_batch_size=2, steps=1, test_episodes=8)
    meta_test = make_meta_datasets(run, "unused")[1]
    curves = run_comparison(run).curves
    batch = meta_test.episodes(range(len(curves.targets)), run.seed)
    for task, grid in enumerate(curves.inputs):
        points = np.concatenate([inputs[task, :, 0] for inputs, _ in batch.values()])
        assert (grid[0], grid[-1]) == (points.min(), points.max())
    np.testing.assert_array_equal(curves.targets, meta_test.evaluate(batch.plan.classes[:, 0], curves.inputs))


@pytest.mark.parametrize(("inner_steps", "shown"), [(1, {1: 1.6, 10: 0.7}), (10, {10: 1.6}), (12, {12: 1.6})])
def test_adaptation_is_drawn_after_the_run_s_own_steps(comparison, inner_steps, shown):
    """And after ten, thinner, if that is more."""
    predictions = {name: {0: each[0], **{n: each[0] + n for n in shown}} for name, each in curves_of(comparison)}
    curves = replace(comparison.curves, inner_steps=inner_steps, predictions=predictions)
    for task, axes in enumerate(draw_adaptation(curves).axes):
        lines = {line.get_label(): line for line in axes.lines}
        np.testing.assert_array_equal(lines["before adaptation"].get_ydata(), predictions["torch"][0][task])
        for name, label in (("torch", "PyTorch"), ("jax", "JAX")):
            drawn = {label_: line for label_, line in lines.items() if label_.startswith(f"{label}, ")}
            assert drawn.keys() == {f"{label}, {n} inner step{'' if n == 1 else 's'}" for n in shown}
            for steps, width in shown.items():
                line = drawn[f"{label}, {steps} inner step{'' if steps == 1 else 's'}"]
                assert line.get_linewidth() == width
                np.testing.assert_array_equal(line.get_ydata(), predictions[name][steps][task])


def curves_of(comparison):
    return comparison.curves.predictions.items()


@pytest.mark.slow
@pytest.mark.parametrize(("inner_steps", "computed"), [(1, {0, 1, 10}), (12, {0, 12})])
def test_no_curve_is_computed_that_is_not_drawn(inner_steps, computed):
    run = replace(RUN, steps=1, algorithm=replace(RUN.algorithm, inner_steps=inner_steps))
    curves = run_comparison(run).curves
    assert curves.inner_steps == inner_steps
    assert [set(each) for each in curves.predictions.values()] == [computed, computed]


@pytest.mark.parametrize(("difference", "agrees"), [(5e-7, True), (2e-6, False)])
def test_verdict_table_and_picture_hold_the_same_number_against_the_limit(comparison, difference, agrees):
    """Losses of 100 may differ by a hundred times the limit, as rounding is relative."""
    losses = {"torch": np.array([100 + difference, 0.5]), "jax": np.array([100, 0.5])}
    found = replace(comparison, trajectory=replace(comparison.trajectory, losses=losses))
    limit = found.limits.loss_difference
    assert limit == 1e-8
    scaled = (losses["torch"][0] - 100) / 100
    assert (found.disagreements() == []) == agrees == (scaled <= limit)
    (row,) = (each for each in summary_rows(found) if each[0].startswith("loss difference"))
    assert row[1:] == (f"{scaled:.1e}", "at most 1e-08, relative above 1")
    assert found.to_dict()["trajectory"]["max_scaled_loss_difference"] == scaled
    assert found.to_dict()["trajectory"]["max_abs_loss_difference"] == losses["torch"][0] - 100
    lower = draw_losses(found).axes[1]
    points, line = lower.lines[:2]
    assert points.get_ydata()[0] == scaled
    assert set(line.get_ydata()) == {limit}
    assert lower.get_ylabel() == "loss difference, float64"
    if not agrees:
        assert f"there by {scaled:.2e}, at most by {scaled:.2e} (relative where they exceed 1)" in verdict(found)


def test_small_losses_differ_absolutely(comparison):
    losses = {"torch": np.array([1e-3 + 5e-9]), "jax": np.array([1e-3])}
    found = replace(comparison, trajectory=replace(comparison.trajectory, losses=losses))
    np.testing.assert_array_equal(found.trajectory.scaled_differences, found.trajectory.differences)
    assert found.disagreements() == []


@pytest.mark.parametrize("dataset", sorted(RECIPES.keys() & BENCHMARKS.keys()))
def test_every_variant_that_is_listed_can_be_named(dataset):
    """One alone is not recorded: there is nothing to choose."""
    variants = BENCHMARKS[dataset].variants
    for name in variants:
        assert make_run(dataset, name).variant == (name if len(variants) > 1 else None)


def test_a_changed_number_in_an_episode_is_found(monkeypatch):
    def change(backend):
        def feed(loader):
            def altered(batch):
                splits = {name: (inputs.copy(), targets) for name, (inputs, targets) in batch.items()}
                for row in np.flatnonzero(batch.plan.indices == 9):
                    splits["test"][0][row, 0, 0] *= np.float32(1 + 2**-20)
                return backend.receive(EpisodeBatch(batch.plan, splits))

            return map(altered, loader)

        return Altered(backend, feed=feed)

    alter(monkeypatch, change)
    found = run_comparison()
    assert found.episodes.identical == found.episodes.total - 1
    assert re.match(r"Episodes differ: jax received 1 of 24 episodes .* the first at index 9\.", verdict(found))


def perturbed_learner(backend, **changes):
    """The backend's learner with other parameters or configuration."""

    def learner(run, parameters):
        if "weight" in changes:
            parameters = {name: array.copy() for name, array in parameters.items()}
            parameters["head.bias"][0] += changes["weight"]  # of a weight behind a dead ReLU nothing would show
        if "optimiser" in changes:
            run = replace(run, optimiser=replace(run.optimiser, **changes["optimiser"]))
        if changes.get("first_order"):
            run = replace(run, algorithm=replace(run.algorithm, first_order=True))
        if changes.get("second_order") and run.algorithm.omits_second_order:
            run = replace(run, algorithm=run.algorithm.with_second_order())
        if run.algorithm.name in changes.get("inner_lr", {}):
            run = replace(run, algorithm=replace(run.algorithm, inner_lr=changes["inner_lr"][run.algorithm.name]))
        return backend.learner(run, parameters)

    return Altered(backend, learner=learner)


def test_one_perturbed_weight_is_found(monkeypatch):
    alter(monkeypatch, lambda backend: perturbed_learner(backend, weight=1e-6))
    assert re.search(r"Meta-gradients differ (before|after) the run by a relative \d", verdict(run_comparison()))


def test_another_optimiser_is_found_at_its_first_step(monkeypatch):
    alter(monkeypatch, lambda backend: perturbed_learner(backend, optimiser={"eps": 1e-3}))
    assert re.search(r"Losses differ from meta-step 1 on: there by \d.*, at most by", verdict(run_comparison()))


def test_a_first_order_backend_is_found(monkeypatch):
    alter(monkeypatch, lambda backend: perturbed_learner(backend, first_order=True))
    found = verdict(run_comparison())
    assert "the second derivatives are missing" in found
    assert "The meta-gradient of jax differs from finite differences" in found


FIRST_ORDER = make_run(
    "sinusoid", shots=5, test_shots=5, meta_batch_size=4, steps=1, test_episodes=8, algorithm="fomaml"
)


def test_a_first_order_run_agrees():
    found = run_comparison(FIRST_ORDER)
    gradient, rows = found.to_dict()["meta_gradient"], dict(row[:2] for row in summary_rows(found))
    assert found.disagreements() == []
    assert gradient["omitted_share"] > 1e-3
    assert gradient["first_order_error"] <= found.limits.meta_gradient
    assert rows["second-order share left out of the meta-gradient"] == f"{gradient['omitted_share']:.3f}"
    assert rows["meta-gradient against the first-order one"] == f"{gradient['first_order_error']:.1e}"
    assert rows["second-order share of the meta-gradient"] == "—"


def test_a_backend_that_is_secretly_of_second_order_is_found(monkeypatch):
    alter(monkeypatch, lambda backend: perturbed_learner(backend, second_order=True))
    found = verdict(run_comparison(FIRST_ORDER))
    assert "The meta-gradient of jax is the second-order one up to 0.00e+00: the second derivatives are" in found
    assert "The meta-gradient of torch is" not in found
    assert "The meta-gradient of jax differs from the first-order one by" not in found


def test_a_first_order_algorithm_of_another_inner_loop_is_found(monkeypatch):
    """Its gradient is that of neither order."""
    alter(monkeypatch, lambda backend: perturbed_learner(backend, inner_lr={"fomaml": 0.02}))
    found = verdict(run_comparison(FIRST_ORDER))
    assert re.search(r"The meta-gradient of jax differs from the first-order one by a relative \d", found)


def test_an_inner_rate_too_small_to_show_second_derivatives_is_not_taken_for_missing_ones(comparison):
    """Their share is that of the rate, so it says nothing where the rate is below the limit of the share."""

    def verdict_at(inner_lr):
        run = replace(RUN, algorithm=replace(RUN.algorithm, inner_lr=inner_lr))
        shares = replace(comparison.meta_gradient, second_order_shares={"torch": 0.0, "jax": 0.5})
        return replace(comparison, run=run, meta_gradient=shares).disagreements()

    (small,), (usual,) = verdict_at(1e-300), verdict_at(0.01)
    assert small.endswith("an inner learning rate of 1e-300 is too small for second derivatives to show; raise it.")
    assert usual.endswith(
        "The meta-gradient of torch is the first-order one up to 0.00e+00: the second derivatives are missing."
    )


def test_a_backend_that_narrows_its_inputs_is_found(monkeypatch):
    def change(backend):
        def to_numpy(data):
            received = backend.to_numpy(data)
            return {name: (inputs.astype(np.float16), targets) for name, (inputs, targets) in received.items()}

        altered = Altered(backend)
        altered.to_numpy = to_numpy
        return altered

    alter(monkeypatch, change, name="torch")
    assert "Episodes differ: torch received 24 of 24 episodes" in verdict(run_comparison())


def test_not_a_number_stops_the_run():
    run = replace(RUN, algorithm=replace(RUN.algorithm, inner_lr=1e300))
    with pytest.raises(
        FloatingPointError,
        match=r"torch: the meta-loss is .* at meta-step 0.*Lower the inner or the outer learning rate",
    ):
        run_comparison(run)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dataset": "sinus"}, "`dataset` must be one of 'sinusoid', 'harmonic', 'sinusoid_and_line', 'omniglot', "),
        ({"dataset": "pascal5i"}, "`dataset` pascal5i cannot be compared: it is segmentation"),
        (
            {"dataset": "omniglot", "variant": "small3"},
            "`variant` of omniglot must be one of 'full', 'small1', 'small2'",
        ),
        ({"variant": "small1"}, "`variant` of sinusoid must be left out"),
        ({"dataset": "cub", "variant": "small1"}, "`variant` of cub must be one of 'full', got 'small1'"),
        ({"ways": 5}, "`ways` must be left out: sinusoid is a regression"),
        (
            {"algorithm": "mamel"},
            f"`algorithm` must be one of {', '.join(map(repr, ALGORITHMS))}, got 'mamel'",
        ),
        ({"steps": 0}, "`steps` must be a positive integer, got 0"),
        ({"inner_lr": float("nan")}, "`inner_lr` must be a positive finite number"),
    ],
)
def test_bad_choices_name_the_argument(choice, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_run(**choice)


# The command


def invoke(*words):
    return CliRunner().invoke(app, ["compare", *map(str, words)], catch_exceptions=False)


SMALL = "--shots 5 --test-shots 5 --meta-batch-size 4 --steps 3 --test-tasks 8 --device cpu"


def test_the_printed_command_repeats_the_run(tmp_path, monkeypatch):
    """Spelled out, so that it gives the very same run."""
    output = tmp_path / "a report"
    found = invoke(*SMALL.split(), "--output", output, "--json", tmp_path / "new" / "found.json")
    assert found.exit_code == 0, found.output
    assert re.search(r"3 meta-steps of 4 tasks and 8 test tasks in each framework", found.stderr)
    assert re.search(r"takes about \d+ (seconds|minutes)\. Shorter: --quick, or fewer --steps", found.stderr)
    (command,) = re.findall(r"^Repeat: (.*)$", found.stdout, re.MULTILINE)
    content = json.loads((output / "compare.json").read_text())
    assert content["command"] == command
    assert content == json.loads((tmp_path / "new" / "found.json").read_text())
    assert html.escape(command) in (output / "report.html").read_text()
    runs = []

    def remember(run, *arguments, **options):
        runs.append(run)
        raise FloatingPointError("far enough")

    monkeypatch.setattr(compare_module, "compare", remember)
    with pytest.raises(FloatingPointError, match="far enough"):
        invoke(*shlex.split(command)[2:])
    assert runs == [RunConfig.from_dict(content["manifest"]["run"])]
    assert runs[0].test_episodes == content["test_episodes"] == 8


@pytest.mark.parametrize("dataset", ["sinusoid", "letter", "omniglot"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_run_of_the_command_line_has_its_command(monkeypatch, algorithm, dataset):
    record, seen = ALGORITHMS[algorithm], []
    if dataset == "sinusoid" and not record.solves_regression:
        pytest.skip("no regression")

    def remember(run, root):
        seen.append(run)
        raise FileNotFoundError("far enough")

    monkeypatch.setattr("metabridge.runs.recipes.make_meta_datasets", remember)
    words = ["--algorithm", algorithm, "--dataset", dataset, "--meta-lr", "0.02", "--steps", "3", "--quick"]
    choices = {each.name for each in fields(record)}
    if "inner_lr" in choices:
        words += ["--inner-lr", "0.03"]
    if "first_order" in choices:
        words += ["--first-order"]
    with pytest.raises(FileNotFoundError, match="far enough"):
        invoke(*words)
    command = repeating_command(seen[0], Path("a b"), "cpu", Path("report"))
    with pytest.raises(FileNotFoundError, match="far enough"):
        invoke(*shlex.split(command)[2:])
    assert seen[0] == seen[1]
    assert algorithm in re.sub(r"\s", "", CliRunner().invoke(app, ["compare", "-h"]).stdout)  # lines break at hyphens


@pytest.mark.parametrize(
    ("choices", "steps", "episodes"),
    [({}, 200, 20), ({"steps": 7}, 7, 20), ({"test_episodes": 5}, 200, 5)],
)
def test_a_quick_run_is_shorter(choices, steps, episodes):
    run = make_run("sinusoid", quick=True, **choices)
    assert (run.steps, run.test_episodes) == (steps, episodes)
    assert replace(run, steps=2000, test_episodes=200) == make_run("sinusoid")
    assert make_run("miniimagenet", quick=True).steps == 2


@pytest.mark.parametrize("is_there", [False, True])
def test_ctrl_c_says_what_was_kept(tmp_path, monkeypatch, is_there):
    output = tmp_path / "new" / "report"
    if is_there:
        output.mkdir(parents=True)
        (output / "report.html").write_text("of an earlier run")

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_module, "compare", stop)
    found = invoke(*SMALL.split(), "--output", output)
    assert found.exit_code == 130
    assert "metabridge: stopped. No report was written; one of an earlier run is as it was." in found.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ([output / "report.html"] if is_there else [])


@pytest.mark.parametrize("mistake", [["--device", "tpu"], ["--inner-lr", "0"], ["--dataset", "omniglot"]])
def test_a_failed_start_leaves_no_folder(tmp_path, mistake):
    with pytest.raises((ValueError, FileNotFoundError)):
        invoke(*SMALL.split(), *mistake, "--root", tmp_path, "--output", tmp_path / "deep" / "report")
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_replaced_as_a_whole(comparison, tmp_path, monkeypatch):
    """A failure while it is written leaves the earlier one, and files that are no report's stay."""
    names = ["adaptation", "losses"]
    monkeypatch.setattr(report_module, "_figures", lambda found: {name: Figure((1, 1)) for name in names})
    target = tmp_path / "report"
    (write_report(comparison, target).parent / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def fail(*arguments):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(report_module, "save_parameters", fail)
        with pytest.raises(OSError, match="no space"):
            write_report(comparison, target)
        with pytest.raises(OSError, match="no space"):
            write_report(comparison, tmp_path / "new" / "report")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert not (tmp_path / "new").exists()
    names.remove("adaptation")
    write_report(comparison, target)
    assert before.keys() - {path.name for path in target.iterdir()} == {"adaptation.png", "adaptation.svg"}
    assert (target / "notes.txt").read_text() == "mine"


def test_the_report_is_readable_on_a_telephone(comparison, tmp_path):
    page = write_report(comparison, tmp_path).read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "@media (max-width: 640px)" in page
    for name in ("episodes", "losses", "adaptation"):
        caption = re.search(rf'alt="{name}".*?<figcaption>(.*?)</figcaption>', page, re.DOTALL)[1]
        assert "float32" in caption or "float64" in caption


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("--output", "file", "`--output` must be a folder, got the file"),
        ("--output", "file/below", "`--output` must be below a folder"),
        ("--json", ".", "`--json` must be a file, got the folder"),
        ("--json", "file/below.json", "`--json` must be below a folder"),
    ],
)
def test_paths_that_do_not_fit_are_refused_first(tmp_path, option, path, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=message):
        invoke(*SMALL.split(), option, tmp_path / path)


def test_tables_fit_80_columns(comparison, capsys):
    print_table(summary_rows(comparison), 80)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(re.fullmatch(r"identical episodes +24 of 24 +all, bit for bit", line) for line in lines)
    assert "at most 1e-08, relative above 1" in " ".join(lines)
