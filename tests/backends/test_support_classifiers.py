"""Classifiers of a support set: each is its formula, written out in NumPy, for one task and for many."""

import functools
import itertools

import numpy as np
import pytest
from tolerances import assert_close, assert_differs, assert_identical

RNG = np.random.default_rng(0)
B, N, WAYS, D, M = 2, 7, 3, 4, 5
SUPPORT, QUERIES = RNG.standard_normal((B, N, D)), RNG.standard_normal((B, M, D))
TARGETS, WANTED = np.array([[2, 0, 1, 1, 0, 2, 2], [0, 0, 1, 2, 2, 1, 0]]), RNG.integers(WAYS, size=(B, M))
LACKING = np.where(TARGETS == 1, 0, TARGETS)  # class 1 has no examples


def call(kit, name, *inputs, **options):
    """A function of NumPy arrays, as NumPy arrays."""
    places = [place for place, each in enumerate(inputs) if isinstance(each, np.ndarray)]

    def function(*arrays):
        given = dict(enumerate(inputs)) | dict(zip(places, arrays, strict=True))
        return getattr(kit.functional, name)(*given.values(), **options)

    result = kit.compile(function)(*(kit.array(inputs[place]) for place in places))
    return (
        tuple(each if each is None else kit.numpy(each) for each in result)
        if isinstance(result, tuple)
        else kit.numpy(result)
    )


def cosines(first, second, eps=1e-8):
    lengths = [np.sqrt((each**2).sum(-1)) for each in (first, second)]
    return first @ second.T / np.maximum(np.outer(*lengths), eps)


def attention(embeddings, targets, queries):
    """Vinyals et al. 2016, equation 1, example by example: `(N, m)`."""
    probas = np.zeros((WAYS, len(queries)))
    for column, query in enumerate(queries):
        weights = np.exp(cosines(embeddings, query[None])[:, 0])
        for weight, target in zip(weights / weights.sum(), targets, strict=True):
            probas[target, column] += weight
    return probas


def one_hot(targets):
    return (targets[..., None] == np.arange(WAYS)).astype(float)


# Prototypes


def test_samples_are_counted(backend64):
    counted = call(backend64, "get_num_samples", TARGETS, num_classes=4)
    assert counted.tolist() == [[2, 2, 3, 0], [3, 2, 2, 0]]
    assert counted.dtype == np.int64
    as_floats = backend64.functional.get_num_samples(
        backend64.array(TARGETS[0]), 4, dtype=backend64.array(SUPPORT).dtype
    )
    assert_identical(backend64.numpy(as_floats), np.array([2.0, 2, 3, 0]))


def test_the_prototypical_loss_is_the_cross_entropy_of_distances(backend64):
    centres = RNG.standard_normal((B, WAYS, D))
    logits = -((QUERIES[:, :, None] - centres[:, None]) ** 2).sum(-1)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, WANTED[..., None], -1)[..., 0]
    assert_close(call(backend64, "prototypical_loss", centres, QUERIES, WANTED), losses.mean(), "forward")
    one = call(backend64, "prototypical_loss", centres[0], QUERIES[0], WANTED[0], reduction="none")
    assert_close(one, losses[0], "forward")
    summed = call(backend64, "prototypical_loss", centres, QUERIES, WANTED, ignore_index=1, reduction="sum")
    assert_close(summed, losses[WANTED != 1].sum(), "forward")
    kept = call(backend64, "prototypical_loss", centres, QUERIES, WANTED, ignore_index=1)
    assert_close(kept, losses[WANTED != 1].mean(), "forward")
    with pytest.raises(ValueError, match="`reduction` must be one of 'mean', 'sum', 'none', got 'max'"):
        call(backend64, "prototypical_loss", centres, QUERIES, WANTED, reduction="max")


# Matching


def test_similarities_are_cosines(backend64):
    first = SUPPORT.copy()
    first[0, 1] = 0
    expected = np.stack([cosines(*each) for each in zip(first, QUERIES, strict=True)])
    assert_close(call(backend64, "pairwise_cosine_similarity", first, QUERIES), expected, "forward")
    eps = 3.0
    expected = np.stack([cosines(*each, eps) for each in zip(first, QUERIES, strict=True)])
    assert_close(call(backend64, "pairwise_cosine_similarity", first, QUERIES, eps), expected, "forward")
    queries = backend64.array(QUERIES)
    similarity = backend64.functional.pairwise_cosine_similarity
    gradient = backend64.gradient(lambda x: similarity(x, queries).sum(), backend64.array(first))
    assert np.isfinite(backend64.numpy(gradient)).all()


@pytest.mark.parametrize("targets", [TARGETS, LACKING], ids=["every class", "a class without examples"])
def test_matching_attends_to_the_support_set(backend64, targets):
    expected = np.stack([attention(*each) for each in zip(SUPPORT, targets, QUERIES, strict=True)])
    probas = call(backend64, "matching_probas", SUPPORT, targets, QUERIES, WAYS)
    assert_close(probas, expected, "forward")
    assert_close(probas.sum(1), np.ones((B, M)), "forward")
    logarithms = call(backend64, "matching_log_probas", SUPPORT, targets, QUERIES, WAYS)
    present = expected > 0
    assert_close(logarithms[present], np.log(expected[present]), "forward")
    assert (logarithms[~present] == -np.inf).all()
    swapped = targets.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert_differs(call(backend64, "matching_probas", SUPPORT, swapped, QUERIES, WAYS), expected)


def test_the_matching_loss_and_its_gradient(backend64):
    """Also where a class has no examples, as long as no query is of it."""
    loss = backend64.functional.matching_loss
    for targets, wanted in ((TARGETS, WANTED), (LACKING, 2 * (WANTED // 2))):
        found = call(backend64, "matching_loss", SUPPORT, targets, QUERIES, wanted, num_classes=WAYS)
        expected = np.stack([attention(*each) for each in zip(SUPPORT, targets, QUERIES, strict=True)])
        assert_close(found, -np.log(np.take_along_axis(expected, wanted[:, None], 1)).mean(), "forward")
        arrays = [backend64.array(each) for each in (targets, QUERIES, wanted)]
        gradient = backend64.gradient(lambda x, arrays=arrays: loss(x, *arrays, WAYS), backend64.array(SUPPORT))
        ahead, behind = SUPPORT.copy(), SUPPORT.copy()
        ahead[1, 2, 3] += 1e-5
        behind[1, 2, 3] -= 1e-5
        values = [call(backend64, "matching_loss", each, targets, QUERIES, wanted, WAYS) for each in (ahead, behind)]
        assert_close(backend64.numpy(gradient)[1, 2, 3], (values[0] - values[1]) / 2e-5, "finite_difference")


def lstm_cell(inputs, hidden, cell, params, name):
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    sums = params[f"{name}_inputs"] @ inputs + params[f"{name}_hidden"] @ hidden + params[f"{name}_bias"]
    enter, keep, value, leave = np.split(sums, 4)
    cell = sigmoid(keep) * cell + sigmoid(enter) * np.tanh(value)
    return sigmoid(leave) * np.tanh(cell), cell


def full_context(support, queries, params, steps):
    """Vinyals et al. 2016, appendix A, vector by vector."""
    width = support.shape[1]
    context = support.copy()
    for name, order in (("forward", range(len(support))), ("backward", range(len(support))[::-1])):
        hidden = cell = np.zeros(width)
        for i in order:
            hidden, cell = lstm_cell(support[i], hidden, cell, params, name)
            context[i] += hidden
    found = []
    for query in queries:
        hidden = cell = np.zeros(width)
        for _ in range(steps):
            weights = np.exp(context @ hidden)
            read = (weights / weights.sum()) @ context
            hidden, cell = lstm_cell(query, np.concatenate([hidden, read]), cell, params, "attention")
            hidden = hidden + query
        found.append(hidden)
    return context, np.stack(found)


def context_params():
    rng = np.random.default_rng(1)
    shapes = {"inputs": (4 * D, D), "hidden": (4 * D, D), "bias": (4 * D,)}
    every = {f"{name}_{key}": s for name in ("forward", "backward", "attention") for key, s in shapes.items()}
    every["attention_hidden"] = (4 * D, 2 * D)
    return {name: rng.standard_normal(shape) / 2 for name, shape in every.items()}


def test_full_context_embeddings_are_those_of_the_reference(backend64):
    params = context_params()
    arrays = {name: backend64.array(each) for name, each in params.items()}
    found = call(backend64, "full_context_embeddings", SUPPORT[0], QUERIES[0], params=arrays, processing_steps=3)
    for ours, expected in zip(found, full_context(SUPPORT[0], QUERIES[0], params, 3), strict=True):
        assert_close(ours, expected, "forward")
    assert_differs(found[1], full_context(SUPPORT[0], QUERIES[0], params, 2)[1])
    assert_differs(found[0], full_context(SUPPORT[0][::-1], QUERIES[0], params, 3)[0][::-1])


# Closed forms


@pytest.mark.parametrize(("bias", "scale"), list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize("features", [D, 9], ids=["more examples", "more features"])
def test_ridge_regression_solves_its_normal_equations(backend64, bias, scale, features):
    embeddings = np.random.default_rng(1).standard_normal((B, N, features))
    options = {"num_classes": WAYS, "bias": bias, "scale": scale}
    solutions = [
        call(backend64, "ridge_regression", embeddings, TARGETS, 0.3, use_woodbury=choice, **options)
        for choice in (None, True, False)
    ]
    for weight, intercept in (each if bias else (each[0], None) for each in solutions):
        for task in range(B):
            inputs = np.hstack([embeddings[task], np.ones((N, 1))]) if bias else embeddings[task]
            penalty = 0.3 * (N if scale else 1)
            system = inputs.T @ inputs + penalty * np.eye(inputs.shape[1])
            expected = np.linalg.inv(system) @ inputs.T @ one_hot(TARGETS[task])
            found = weight[task].T if intercept is None else np.vstack([weight[task].T, intercept[task]])
            assert_close(found, expected, "gradient")  # through two different inverses


def test_ridge_regression_of_numbers_and_its_gradient(backend64):
    numbers = RNG.standard_normal((B, N, 2))
    weight, bias = call(backend64, "ridge_regression", SUPPORT, numbers, 1.0)
    assert weight.shape == (B, 2, D)
    assert bias.shape == (B, 2)
    arrays = backend64.array(SUPPORT), backend64.array(numbers)

    def total(penalty):
        return (backend64.functional.ridge_regression(*arrays, penalty).weight ** 2).sum()

    slope = backend64.gradient(total, backend64.array(np.array(0.5)))
    values = [(call(backend64, "ridge_regression", SUPPORT, numbers, at)[0] ** 2).sum() for at in (0.50001, 0.49999)]
    assert_close(slope, np.array((values[0] - values[1]) / 2e-5), "finite_difference")


def test_ridge_regression_says_what_its_targets_must_be(backend64):
    with pytest.raises(ValueError, match=r"`num_classes` must be a number for integer targets, got None; .* how many"):
        call(backend64, "ridge_regression", SUPPORT, TARGETS, 1.0)
    with pytest.raises(ValueError, match=r"`targets` must be of shape \(2, 7\), a class an example, got \(2, 5\)"):
        call(backend64, "ridge_regression", SUPPORT, WANTED, 1.0, WAYS)
    with pytest.raises(ValueError, match=r"`targets` must be of shape \(2, 7, 'outputs'\), .*, got \(2, 7\); cast"):
        call(backend64, "ridge_regression", SUPPORT, TARGETS.astype(float), 1.0, WAYS)


def test_logistic_regression_reaches_the_minimum(backend64):
    """There the gradient of the loss is 0; one step is a ridge regression on the labels ±2 with weights 1/4."""
    weight = call(backend64, "logistic_regression", SUPPORT, TARGETS, 0.3, WAYS, steps=15)
    signs = 2 * one_hot(TARGETS).swapaxes(1, 2) - 1
    margins = signs * (weight @ SUPPORT.swapaxes(1, 2))
    gradient = -(signs / (1 + np.exp(margins))) @ SUPPORT + 0.3 * weight
    assert np.abs(gradient).max() < 1e-13
    once = call(backend64, "logistic_regression", SUPPORT, TARGETS, 0.3, WAYS, steps=1)
    expected = [
        np.linalg.inv(x.T @ x / 4 + 0.3 * np.eye(D)) @ x.T @ (sign.T / 2)
        for x, sign in zip(SUPPORT, signs, strict=True)
    ]
    assert_close(once, np.stack(expected).swapaxes(1, 2), "gradient")
    assert_differs(once, weight)


@functools.cache
def plain_svms(penalty):
    """The solution for each task."""
    return np.stack([plain_svm(*each, penalty) for each in zip(SUPPORT, TARGETS, strict=True)])


def plain_svm(embeddings, targets, penalty, sweeps=200):
    """Crammer and Singer's dual, one row after the other, trying how many of its entries are below their bounds."""
    kernel, labels = embeddings @ embeddings.T + np.eye(len(embeddings)), one_hot(targets)
    dual = np.zeros_like(labels)
    for _ in range(sweeps):
        for i in range(len(embeddings)):
            point, bound = dual[i] - (kernel[i] @ dual - labels[i]) / kernel[i, i], penalty * labels[i]
            order = np.argsort(point - bound)
            levels = [(point[order[:k]].sum() + bound[order[k:]].sum()) / k for k in range(1, WAYS + 1)]
            level = next(each for each in levels if abs(np.minimum(point - each, bound).sum()) < 1e-12)
            dual[i] = np.minimum(point - level, bound)
    return dual.T @ embeddings


@pytest.mark.parametrize("penalty", [0.1, 2.0])
def test_the_support_vector_machine_is_that_of_a_plain_solver(backend64, penalty):
    found = call(backend64, "support_vector_machine", SUPPORT, TARGETS, WAYS, penalty)
    assert_close(found, plain_svms(penalty), "gradient")
    swapped = TARGETS.copy()
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    assert_differs(call(backend64, "support_vector_machine", SUPPORT, swapped, WAYS, penalty), found)


def test_the_derivative_of_the_support_vector_machine(backend64):
    def total(x):
        return (backend64.functional.support_vector_machine(x, backend64.array(TARGETS), WAYS, 2.0) ** 3).sum()

    gradient = backend64.numpy(backend64.gradient(total, backend64.array(SUPPORT)))
    direction = RNG.standard_normal(SUPPORT.shape)
    values = [
        (call(backend64, "support_vector_machine", SUPPORT + step * direction, TARGETS, WAYS, 2.0) ** 3).sum()
        for step in (1e-5, -1e-5)
    ]
    assert_close((gradient * direction).sum(), (values[0] - values[1]) / 2e-5, "finite_difference")


# Hardness


def test_hardness_is_the_mean_log_odds(backend64):
    weight = RNG.standard_normal((D, 3))
    expected = []
    for support, targets, queries, wanted in zip(SUPPORT, TARGETS, QUERIES, WANTED, strict=True):
        centres = np.stack([(support[targets == c] @ weight).mean(0) for c in range(WAYS)])
        scores = np.exp(cosines(queries @ weight, centres))
        right = (scores / scores.sum(1, keepdims=True))[np.arange(M), wanted]
        expected.append(np.log((1 - right) / right).mean())
    array = backend64.array
    batch = {"train": (array(SUPPORT), array(TARGETS)), "test": (array(QUERIES), array(WANTED))}
    found = backend64.functional.hardness_metric(batch, WAYS, lambda inputs: inputs @ array(weight))
    assert_close(found, np.array(expected), "forward")


# Precision

SOLVED = {
    "get_prototypes": (SUPPORT, TARGETS, WAYS),
    "pairwise_cosine_similarity": (SUPPORT, QUERIES),
    "matching_probas": (SUPPORT, TARGETS, QUERIES, WAYS),
    "matching_loss": (SUPPORT, TARGETS, QUERIES, WANTED, WAYS),
    "ridge_regression": (SUPPORT, TARGETS, 0.3, WAYS),
    "logistic_regression": (SUPPORT, TARGETS, 0.3, WAYS),
    "support_vector_machine": (SUPPORT, TARGETS, WAYS),
}


def first_of(result):
    return result[0] if isinstance(result, tuple) else result


def cast(inputs, dtype):
    """The inputs with their numbers in another dtype."""
    return [each.astype(dtype) if isinstance(each, np.ndarray) and each.dtype.kind == "f" else each for each in inputs]


@pytest.mark.parametrize("name", SOLVED)
def test_one_task_is_that_of_the_batch(backend64, name):
    inputs = SOLVED[name]
    if name == "matching_loss":
        inputs = (*inputs, 1e-8, -100, "none")
    whole = first_of(call(backend64, name, *inputs))
    for task in range(B):
        alone = [each[task] if isinstance(each, np.ndarray) else each for each in inputs]
        assert_close(first_of(call(backend64, name, *alone)), whole[task], "forward")


@pytest.mark.parametrize("name", SOLVED)
def test_half_precision_computes_in_more(backend, name):
    """Sums of squares of these overflow float16, and float16 has no linear solver in torch."""
    inputs = SOLVED[name]
    narrow = cast([300 * inputs[0], *inputs[1:]], np.float16)
    found = first_of(call(backend, name, *narrow))
    assert found.dtype == np.float16
    assert_close(found.astype(np.float32), first_of(call(backend, name, *cast(narrow, np.float32))), "forward_float16")


@pytest.mark.parametrize("name", SOLVED)
def test_autocast_keeps_the_digits(torch_kit, name):
    inputs = cast(SOLVED[name], np.float32)
    expected = first_of(call(torch_kit, name, *inputs))
    with torch_kit.torch.autocast("cpu", dtype=torch_kit.torch.bfloat16):
        assert_identical(first_of(call(torch_kit, name, *inputs)), expected)


@pytest.mark.parametrize("wrong", [3, np.array([1, 2])], ids=str)
def test_what_holds_no_real_numbers_is_named(backend, wrong):
    targets = backend.array(np.array([0, 1]))
    given = backend.array(wrong) if isinstance(wrong, np.ndarray) else wrong
    with pytest.raises(
        ValueError, match=r"`embeddings` must be an? (tensor|array) of floating-point numbers, got .*; conv"
    ):
        backend.functional.get_prototypes(given, targets, 2)


def test_a_part_that_is_missing_is_named(backend):
    """The parameters of the network alone, where a head has some of its own."""
    array = backend.array(np.ones((1, 2, 3), np.float32))
    task = (array, backend.array(np.zeros((1, 2), np.int64)))
    heads = backend.algorithms.LRD2(lambda params, inputs: inputs @ params["w"], ways=2)
    with pytest.raises(ValueError, match="`params` must be a mapping with the part 'network', got 'w'"):
        heads.predict({"w": backend.array(np.ones((3, 2), np.float32))}, {"train": task, "test": task})
