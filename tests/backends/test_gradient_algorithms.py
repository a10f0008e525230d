"""Gradient-based algorithms against references in NumPy, which share nothing with the backends.

A reference is the meta-loss of one task, written down; its gradient is taken by complex steps, exact to rounding.
"""

import functools
from dataclasses import replace

import numpy as np
import oracle
import pytest
from helpers import every
from tolerances import assert_close, assert_differs, assert_identical

from backends.problems import PROBLEMS
from backends.test_algorithms import computed, problem, start
from metabridge.adaptation.multi_step import multi_step_weights
from metabridge.configs import CAVIAConfig, MAMLPlusPlusConfig, ModelConfig
from metabridge.networks.tables import network_layers


def descend(model, params, task, rates, steps):
    """All parameters that `steps` steps of gradient descent on the support set visit."""
    visited = [params]
    for step in range(steps):
        slope = oracle.loss_and_gradient(model, oracle.cross_entropy, visited[-1], *task["train"])[1]
        visited.append({name: value - rates(name, step) * slope[name] for name, value in visited[-1].items()})
    return visited


def query_loss(model, params, task):
    """The loss on the query set."""
    inputs, targets = task["test"]
    return oracle.cross_entropy(oracle.outputs(model, params, inputs), targets)[0]


def reptile(run, params, task):
    """The query loss, and the way back from the adapted parameters."""
    algorithm = run.algorithm
    visited = descend(run.model, params, task, lambda name, step: algorithm.inner_lr, algorithm.inner_steps)
    return query_loss(run.model, visited[-1], task), {name: params[name] - visited[-1][name] for name in params}


def by_complex_steps(meta_loss):
    """A reference from the meta-loss of one task alone."""

    def value_and_gradient(run, params, task):
        return oracle.complex_step_gradient(lambda moved: meta_loss(run, moved, task), params)

    return value_and_gradient


def proto_maml(run, params, task):
    """The embedding with its head is the network with as many outputs as there are classes."""
    inputs, labels = task["train"]
    model = replace(run.model, outputs=run.episode.ways)
    plain = {"head.weight": np.eye(run.model.hidden[-1]), "head.bias": 0.0}
    embedded = oracle.outputs(model, params | plain, inputs)
    prototypes = np.stack([embedded[labels == label].mean(0) for label in range(run.episode.ways)])
    head = {"head.weight": 2 * prototypes, "head.bias": -(prototypes**2).sum(-1)}
    algorithm = run.algorithm
    adapted = descend(model, params | head, task, lambda name, step: algorithm.inner_lr, algorithm.inner_steps)[-1]
    return query_loss(model, adapted, task)


def cavia(run, params, task):
    """A context concatenated to the inputs, as in the paper: the first layer's weight is wider by the map."""
    name = "features.layer1.linear"
    widened = {key: value for key, value in params.items() if not key.startswith("maps.")}
    widened[f"{name}.weight"] = np.concatenate([params[f"{name}.weight"], params[f"maps.{name}.bias"]], axis=1)

    def loss_and_slope(context, inputs, targets):
        wide = np.concatenate([inputs, np.broadcast_to(context, (len(inputs), len(context)))], axis=1)
        values, tape = oracle.forward(run.model, widened, wide)
        value, upstream = oracle.cross_entropy(values, targets)
        for _, pull in reversed(tape):
            upstream, _ = pull(upstream)
        return value, upstream[:, inputs.shape[1] :].sum(0)

    context = np.zeros(run.algorithm.context)
    for _ in range(run.algorithm.inner_steps):
        context = context - run.algorithm.inner_lr * loss_and_slope(context, *task["train"])[1]
    return loss_and_slope(context, *task["test"])[0]


def maml_plus_plus(run, params, task):
    """Rates by name and step; the mean of the query losses after the two steps, as training begins."""
    network = {key: value for key, value in params.items() if not key.startswith("rates.")}
    steps = run.algorithm.inner_steps
    visited = descend(run.model, network, task, lambda name, step: params[f"rates.{name}"][step], steps)
    return sum(query_loss(run.model, each, task) for each in visited[1:]) / steps


REFERENCES = {
    "reptile": reptile,
    "proto-maml": by_complex_steps(proto_maml),
    "cavia": by_complex_steps(cavia),
    "maml++": by_complex_steps(maml_plus_plus),
}
"""Algorithm → value and gradient of one task: `(run, params, task)` → (meta-loss, meta-gradient)."""


@functools.cache
def reference(name, spoil=None):
    """Mean meta-loss and meta-gradient of the problem's meta-batch, with one thing spoilt."""
    chosen = problem(name)
    run, params = chosen.run, chosen.perturbed()
    batch = {split: tuple(arrays) for split, arrays in chosen.batch().items()}
    if spoil == "rate":
        run = replace(run, algorithm=replace(run.algorithm, inner_lr=0.301))
        params = {key: value * (1.003 if key.startswith("rates.") else 1.0) for key, value in params.items()}
    if spoil == "weight":
        params["features.layer1.linear.weight"][0, 0] += 1e-3
    if spoil == "label":
        inputs, labels = batch["train"]
        batch["train"] = inputs, labels[:, ::-1]
    return oracle.mean_over_tasks(functools.partial(REFERENCES[name], run), params, batch)


@pytest.mark.parametrize("name", REFERENCES)
def test_loss_and_meta_gradient_are_those_of_the_reference(backend, name):
    loss, gradient = computed(backend.name, name)
    assert_close(loss, reference(name)[0], "forward")
    assert_close(gradient, reference(name)[1], "meta_gradient_mlp")


@pytest.mark.parametrize("spoil", ["rate", "weight", "label"])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_spoilt_reference_is_noticed(backend, name, spoil):
    loss, gradient = computed(backend.name, name)
    other_loss, other = reference(name, spoil)
    for ours, theirs, kind in ((loss, other_loss, "forward"), (gradient, other, "meta_gradient_mlp")):
        with pytest.raises(AssertionError, match="relative error"):
            assert_close(ours, theirs, kind)


def test_a_context_steers_every_batch_normalisation():
    """On images; where there is none, the first layer's bias."""
    maps = CAVIAConfig(context=7).parts
    of_images = dict(maps(network_layers(PROBLEMS["images"].run.model), 3)["maps"].parameters())
    norms = [f"features.layer{block}.norm" for block in (1, 2, 3, 4)]
    assert list(of_images) == [f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")]
    assert of_images["features.layer2.norm.bias"].shape == (3, 7)
    of_vectors = dict(maps(network_layers(PROBLEMS["vectors"].run.model), 3)["maps"].parameters())
    assert list(of_vectors) == ["features.layer1.linear.bias"]
    blocks = ModelConfig("resnet12", (32, 32, 3), 3, (4, 4, 4, 4))
    of_blocks = dict(maps(network_layers(blocks), 3)["maps"].parameters())
    assert "features.layer1.shortcut.norm.weight" in of_blocks
    with pytest.raises(ValueError, match="`context` must be a positive integer"):
        CAVIAConfig(context=0)


def test_a_map_names_a_parameter(backend):
    kit, ones = backend, backend.array(np.ones((2, 3, 1), np.float32))
    cavia = kit.algorithms.CAVIA(
        lambda params, inputs: inputs * params["w"],
        kit.functional.mean_squared_error,
        optimiser=kit.optimisers.sgd(0.1),
    )
    params = {"network": {"w": ones[0, 0]}, "maps": {"v": backend.array(np.ones((1, 2), np.float32))}}
    with pytest.raises(ValueError, match=r"`params\['maps'\]` .* 'v'"):
        cavia.loss(params, {"train": (ones, ones), "test": (ones, ones)})


def test_weights_of_a_multi_step_loss_move_to_the_last_step():
    for progress in (0.0, 0.3, 0.97, 1.0):
        weights = multi_step_weights(5, progress)
        assert sum(weights) == pytest.approx(1)
        assert weights[:4] == (max(1 - progress, 0.03) / 5,) * 4
    assert multi_step_weights(1, 0.5) == (1.0,)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`progress` must be"):
            multi_step_weights(5, wrong)
    with pytest.raises(ValueError, match="`steps` must be a positive integer, got 0"):
        multi_step_weights(0, 0.5)


def test_a_schedule_has_few_stages():
    record = MAMLPlusPlusConfig(annealing=100, first_order_steps=30, progress=0.5)
    stages = list(dict.fromkeys(record.at_step(step) for step in range(1000)))
    assert [stage.progress for stage in stages] == pytest.approx([0.5 + 0.05 * number for number in range(11)])
    assert [stage.first_order for stage in stages] == [True] * 3 + [False] * 8
    assert every(stage.at_step(7) == stage for stage in stages)
    assert record.at_step(0).omits_second_order
    assert not record.with_second_order().at_step(0).omits_second_order
    assert MAMLPlusPlusConfig(annealing=0, progress=0.2).at_step(10**6).progress == 0.2
    for field in ("annealing", "first_order_steps"):
        with pytest.raises(ValueError, match=f"`{field}` must be an integer of at least 0, got -1"):
            MAMLPlusPlusConfig(**{field: -1})


def test_a_learner_follows_the_schedule(backend):
    """First order at the first meta-step, then second; a learner that loads a state takes up the schedule there."""
    chosen = problem("maml++", annealing=2, first_order_steps=1)
    learner, batch = start(backend, chosen)
    for step in range(3):
        fixed = replace(chosen, run=replace(chosen.run, algorithm=chosen.run.algorithm.at_step(step)))
        other = backend.backend.Backend("cpu", "float64").learner(fixed.run, learner.parameters())
        assert fixed.run.algorithm.first_order == (step == 0)
        assert_identical(learner.meta_gradient(batch)[1], other.meta_gradient(batch)[1])
        float(learner.step(batch))
    resumed, _ = start(backend, chosen)
    assert_differs(learner.meta_gradient(batch)[1], resumed.meta_gradient(batch)[1])
    resumed.load_state(learner.state())
    assert_identical(learner.meta_gradient(batch)[1], resumed.meta_gradient(batch)[1])


def test_every_inner_step_has_a_weight(backend):
    kit = backend
    for weights in ((0.5,), (0.5, -0.5), (0.5, float("inf"))):
        with pytest.raises(ValueError, match="`weights` must be 2 finite numbers of at least 0, one for every inner"):
            kit.algorithms.MAMLPlusPlus(lambda p, x: x, kit.functional.cross_entropy, steps=2, weights=weights)
