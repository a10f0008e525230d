"""Algorithms that classify embeddings: their predictions are those of formulas written out in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import every
from tolerances import assert_close, assert_differs

from backends.problems import PROBLEMS
from backends.test_algorithms import computed, problem, start
from backends.test_support_classifiers import WAYS, attention, full_context, one_hot, plain_svm
from metabridge.configs import MatchingConfig, R2D2Config, RelationConfig, RunConfig
from metabridge.networks.layers import Convolution, Flatten, MaxPool, chain, feature_count
from metabridge.networks.parameters import parameter_shapes

LAYER = "features.layer1.linear"


def embed(params, inputs):
    """The MLP without a head."""
    return np.maximum(inputs @ params[f"{LAYER}.weight"].T + params[f"{LAYER}.bias"], 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def matching(params, support, targets, queries):
    return np.log(attention(support, targets, queries)).T


def matching_with_context(params, support, targets, queries):
    context = {name.removeprefix("context."): each for name, each in params.items() if name.startswith("context.")}
    return matching(params, *_around(targets, *full_context(support, queries, context, 5)))


def _around(targets, support, queries):
    return support, targets, queries


def relation(params, support, targets, queries):
    """Pair by pair."""
    scores = np.zeros((len(queries), WAYS))
    for row, query in enumerate(queries):
        for c in range(WAYS):
            pair = np.concatenate([support[targets == c].sum(0), query])
            hidden = params["relation.hidden.weight"] @ pair + params["relation.hidden.bias"]
            score = params["relation.score.weight"] @ np.maximum(hidden, 0) + params["relation.score.bias"]
            scores[row, c] = sigmoid(score[0])
    return scores


def r2d2(params, support, targets, queries):
    """By the normal equations of the features, where the algorithm solves those of the examples."""
    system = support.T @ support + np.exp(params["head.log_lambda"]) * np.eye(support.shape[1])
    return params["head.scale"] * queries @ np.linalg.inv(system) @ support.T @ one_hot(targets)


def lrd2(params, support, targets, queries):
    """Newton steps in the space of the weights, class by class."""
    penalty, columns = np.exp(params["head.log_lambda"]), []
    for labels in one_hot(targets).T:
        weight = np.zeros(support.shape[1])
        for _ in range(5):
            probas = sigmoid(support @ weight)
            slope = support.T @ (probas - labels) + penalty * weight
            curvature = support.T @ (support * (probas * (1 - probas))[:, None]) + penalty * np.eye(len(weight))
            weight = weight - np.linalg.inv(curvature) @ slope
        columns.append(queries @ weight)
    return params["head.scale"] * np.stack(columns, 1)


def metaoptnet(params, support, targets, queries):
    return params["head.scale"] * queries @ plain_svm(support, targets, 0.1).T


REFERENCES = {
    "matching": matching,
    "matching, full context": matching_with_context,
    "relation": relation,
    "r2d2": r2d2,
    "lrd2": lrd2,
    "metaoptnet": metaoptnet,
}
EVERY = pytest.mark.parametrize("case", REFERENCES)


def chosen_problem(case):
    name, _, context = case.partition(", ")
    return problem(name, **({"full_context": True} if context else {}))


def expected_outputs(case, params, batch):
    (inputs, targets), (queries, _) = batch["train"], batch["test"]
    tasks = [
        REFERENCES[case](params, embed(params, x), y, embed(params, q))
        for x, y, q in zip(inputs.astype(float), targets, queries.astype(float), strict=True)
    ]
    return np.stack(tasks)


@EVERY
def test_predictions_and_loss_are_those_of_the_reference(backend, case):
    chosen = chosen_problem(case)
    learner, received = start(backend, chosen)
    batch, params = chosen.batch(), chosen.perturbed()
    outputs = expected_outputs(case, params, batch)
    assert_close(learner.predict(received), outputs, "gradient")  # through other inverses
    wanted = batch["test"][1]
    if case == "relation":
        loss = ((outputs - one_hot(wanted)) ** 2).mean()
    else:
        logs = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
        loss = -np.take_along_axis(logs, wanted[..., None], -1).mean()
    assert_close(learner.loss_at(params, received), loss, "gradient")


@EVERY
def test_the_references_would_notice(case):
    """A perturbed weight, swapped labels, each parameter beside the network's."""
    chosen = chosen_problem(case)
    batch, params = chosen.batch(), chosen.perturbed()
    outputs = expected_outputs(case, params, batch)
    for name, value in params.items():
        assert_differs(expected_outputs(case, {**params, name: value + 0.3}, batch), outputs)
    inputs, targets = batch["train"]
    swapped = {"train": (inputs, (targets + 1) % WAYS), "test": batch["test"]}
    assert_differs(expected_outputs(case, params, swapped), outputs)


def test_both_backends_agree_with_full_context(torch_kit, jax_kit):
    """The gradient reaches every parameter of the LSTMs."""
    (loss, gradient), (other_loss, other) = (
        computed(kit.name, "matching", full_context=True) for kit in (torch_kit, jax_kit)
    )
    assert_close(loss, other_loss, "forward")
    assert_close(gradient, other, "meta_gradient_mlp")
    assert every(np.abs(value).max() > 1e-8 for value in gradient.values())


def test_r2d2_solves_regressions(backend):
    base = PROBLEMS["sinusoid"]
    model = replace(base.run.model, outputs=None, hidden=(8,))
    chosen = replace(base, run=replace(base.run, model=model, algorithm=R2D2Config(reg_lambda=0.5)))
    learner, received = start(backend, chosen)
    batch, params = chosen.batch(), chosen.perturbed()
    expected = []
    for x, y, q in zip(*batch["train"], batch["test"][0], strict=True):
        support, queries = embed(params, x.astype(float)), embed(params, q.astype(float))
        system = support.T @ support + np.exp(params["head.log_lambda"]) * np.eye(8)
        expected.append(params["head.scale"] * queries @ np.linalg.inv(system) @ support.T @ y + params["head.bias"])
    assert_close(learner.predict(received), np.stack(expected), "gradient")
    gradient = learner.meta_gradient(received)[1]
    assert set(gradient) == {f"{LAYER}.weight", f"{LAYER}.bias", "head.scale", "head.log_lambda", "head.bias"}
    ahead, behind = ({**params, "head.bias": params["head.bias"] + step} for step in (1e-5, -1e-5))
    slope = (learner.loss_at(ahead, received) - learner.loss_at(behind, received)) / 2e-5
    assert_close(gradient["head.bias"], np.array(slope), "finite_difference")


def test_parts_follow_from_the_network():
    images = PROBLEMS["images"].run
    run = RunConfig(
        "made", None, images.episode, replace(images.model, outputs=None), MatchingConfig(full_context=True)
    )
    shapes = parameter_shapes(run.layers)
    assert shapes["context.forward_inputs"] == (20, 5)
    assert shapes["context.attention_hidden"] == (20, 10)
    assert parameter_shapes(replace(run, algorithm=RelationConfig()).layers)["relation.hidden.weight"] == (8, 10)
    residual = replace(run.model, name="resnet12", input_shape=(16, 16, 1), hidden=(3, 4, 5, 6))
    assert parameter_shapes(replace(run, model=residual).layers)["context.backward_bias"] == (24,)
    assert feature_count(chain(conv=Convolution(1, 3), pool=MaxPool(2))) == 3
    with pytest.raises(
        ValueError, match="`layer` must hold a layer that says how many features it yields, got Flatten"
    ):
        feature_count(Flatten())
