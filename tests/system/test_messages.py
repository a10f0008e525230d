"""Errors of the command line speak its words: options, not Python's arguments."""

import re
import sys

import pytest
from helpers import coded_source
from typer.testing import CliRunner

from metabridge.cli.app import app, main
from metabridge.datasets.benchmarks import store_path
from metabridge.datasets.catalogue import BENCHMARKS
from metabridge.sources import save_source


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare --inner-lr 0", "`--inner-lr` must be a positive finite number, got 0.0."),
        ("compare --meta-lr -1", "`--meta-lr` must be a positive finite number, got -1.0."),
        ("compare --meta-optimiser adma", "`--meta-optimiser` must be one of 'adam', 'sgd', got 'adma'; did you mean"),
        ("compare --network conv5", "`--network` must be one of 'mlp', 'conv4', 'resnet12', got 'conv5'; did you mean"),
        ("compare --algorithm protonets", "did you mean 'protonet'?"),
        ("compare --dataset sinusiod", "`--dataset` must be one of 'sinusoid', "),
        ("compare --test-tasks 0", "`--test-tasks` must be a positive integer, got 0."),
        ("compare --ways 5", "`--ways` must be left out: sinusoid is a regression"),
        ("compare --device tpu", "`--device` must be 'auto', 'cpu' or 'gpu', got 'tpu'"),
        ("build omniglto", "`DATASET` must be one of 'omniglot', "),
        ("build omniglot --variant smal1", "`--variant` of omniglot must be one of 'full', 'small1', 'small2', got"),
        ("show omniglot --shots 0", "`--shots` must be a positive integer, got 0; pass for example 5."),
        ("compare --output /proc/nowhere", "`--output` must be in a folder that can be written, /proc/nowhere cannot"),
        ("build omniglot --variant small2 --from nothing.zip", "there is nothing at nothing.zip"),
        ("show sinusoid -o .", "`--output` must be a file, got the folder ."),
        ("show sinusoid -o picture.docx", "`--output` of a picture must be one of"),
        ("show omniglot --variant small2", "Already built: `--variant` 'small1'."),
        ("show omniglot", "Build it with `metabridge build omniglot --variant full --root data`. Already built:"),
    ],
)
def test_a_mistake_is_told_in_options(words, message, tmp_path, monkeypatch, capsys):
    save_source(coded_source([2] * 3), store_path(BENCHMARKS["omniglot"], tmp_path / "data", "small1"))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metabridge", *words.split()])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    text = capsys.readouterr().err
    assert message in text
    assert not re.search(r"`[a-z]+(_[a-z]+)+`|Traceback|download=True", text)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", [[], ["compare"], ["build"], ["datasets"], ["show"]])
def test_help_has_a_short_option(verb):
    found = CliRunner().invoke(app, [*verb, "-h"])
    assert found.exit_code == 0
    assert "Usage:" in found.stdout


@pytest.mark.parametrize(("columns", "widest"), [("80", 80), ("100", 100)])
def test_the_list_of_datasets_fits_the_terminal(monkeypatch, tmp_path, columns, widest):
    monkeypatch.setenv("COLUMNS", columns)
    lines = CliRunner().invoke(app, ["datasets", "--root", str(tmp_path)]).stdout.splitlines()
    assert max(map(len, lines)) <= widest
    assert {*BENCHMARKS} <= {line.split()[0] for line in lines if line}
    monkeypatch.setenv("COLUMNS", "200")
    (wide, *_) = CliRunner().invoke(app, ["datasets", "--root", str(tmp_path)]).stdout.splitlines()
    assert wide.endswith("what it is")
