"""`call_with_buffers`: running statistics as explicit state."""

import numpy as np
import pytest
from helpers import every
from tolerances import assert_close, assert_differs, assert_identical

from backends.kits import make_kit

IMAGES = np.random.default_rng(0).standard_normal((3, 5, 6, 4, 2))
"""Three batches of five images, NHWC."""


def network(kit):
    """Batch and instance normalisation with running statistics of both kinds of momentum."""
    return kit.layer(
        "MetaSequential",
        kit.layer("MetaConv2d", 2, 3, 3),
        kit.layer("MetaBatchNorm2d", 3, momentum=0.3),
        kit.relu,
        kit.layer("MetaInstanceNorm2d", 3, affine=True, track_running_stats=True),
        kit.layer("MetaBatchNorm2d", 3, momentum=None),
    )


def stored(kit, model):
    """The model's parameters and buffers, copied."""
    named = [*model.meta_named_parameters(), *model.meta_named_buffers()]
    return {name: kit.numpy(each).copy() for name, each in named}


def doubled(kit, model):
    return {name: 2.0 * each for name, each in kit.parameters(model).items()}


def test_two_calls_move_the_statistics_as_torch_does_in_place(backend64):
    """The reference is PyTorch's own network in training mode with these parameters."""
    model = network(backend64)
    before, params = stored(backend64, model), doubled(backend64, model)
    torch_kit = make_kit("torch")
    nn = torch_kit.torch.nn
    reference = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3, momentum=0.3),
        nn.ReLU(),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.BatchNorm2d(3, momentum=None),
    ).double()
    neutral = backend64.weights.to_neutral(params, model)
    reference.load_state_dict({n: torch_kit.array(v) for n, v in neutral.items()}, strict=False)

    buffers = None
    for images in IMAGES[:2]:
        outputs, buffers = backend64.modules.call_with_buffers(
            model, backend64.images(images), params=params, buffers=buffers
        )
        expected = reference(torch_kit.images(images))
        assert_close(backend64.images_to_numpy(outputs), torch_kit.images_to_numpy(expected), "forward")
    assert list(buffers) == [name for name, _ in model.meta_named_buffers()]
    assert_close(buffers, dict(reference.named_buffers()), "forward")
    assert_identical(stored(backend64, model), before)

    reference.eval()
    outputs, after = backend64.modules.call_with_buffers(
        model, backend64.images(IMAGES[2]), params=params, buffers=buffers, batch_norm="frozen"
    )
    expected = reference(torch_kit.images(IMAGES[2]))
    assert_close(backend64.images_to_numpy(outputs), torch_kit.images_to_numpy(expected), "forward")
    assert_identical(backend64.numpy(after), backend64.numpy(buffers))
    model.eval()
    in_evaluation, after = backend64.modules.call_with_buffers(
        model, backend64.images(IMAGES[2]), params=params, buffers=buffers
    )
    assert_close(in_evaluation, outputs, "forward")
    assert_identical(backend64.numpy(after), backend64.numpy(buffers))
    assert_identical(stored(backend64, model), before)


def test_without_params_the_stored_ones_are_used(backend64):
    model, images = network(backend64), backend64.images(IMAGES[0])
    before = stored(backend64, model)
    outputs, buffers = backend64.modules.call_with_buffers(model, images)
    with_params = backend64.modules.call_with_buffers(model, images, params=backend64.parameters(model))
    assert_close(with_params[0], outputs, "forward")
    assert_close(with_params[1], buffers, "forward")
    assert_identical(stored(backend64, model), before)
    assert_differs(buffers["1.running_var"], before["1.running_var"])


def test_tasks_side_by_side_keep_their_own_statistics(backend64):
    """Two calls in a row for three tasks at once are those of each task alone."""
    model = network(backend64)
    params = doubled(backend64, model)
    tasks = backend64.images(IMAGES)

    def twice(images):
        _, buffers = backend64.modules.call_with_buffers(model, images, params=params)
        outputs, buffers = backend64.modules.call_with_buffers(model, 2.0 * images, params=params, buffers=buffers)
        floats = {name: each for name, each in buffers.items() if not name.endswith("num_batches_tracked")}
        return outputs, floats

    outputs, buffers = backend64.vectorise(twice)(tasks)
    for number in range(len(IMAGES)):
        expected_outputs, expected_buffers = twice(tasks[number])
        assert_close(outputs[number], expected_outputs, "forward")
        assert_close({name: each[number] for name, each in buffers.items()}, expected_buffers, "forward")


def test_no_gradient_goes_through_the_statistics(backend64):
    model, images = network(backend64), backend64.images(IMAGES[0])
    params = doubled(backend64, model)

    def total(current):
        _, buffers = backend64.modules.call_with_buffers(model, images, params=current)
        anchor = sum((0.0 * each).sum() for each in current.values())
        return sum(each.sum() for name, each in buffers.items() if "running" in name) + anchor

    for gradient in backend64.gradient(total, params).values():
        assert not backend64.numpy(gradient).any()


def test_an_ordinary_module_has_explicit_buffers_too(backend64):
    with backend64.mixed_dtypes():
        model = backend64.modules.as_meta_module(backend64.batch_normalised())
        inputs = backend64.array(IMAGES.reshape(-1, 4)[:6])
        before = stored(backend64, model)
        _, buffers = backend64.modules.call_with_buffers(model, inputs, params=backend64.parameters(model))
        assert_identical(stored(backend64, model), before)
        moved = [name for name in buffers if np.any(backend64.numpy(buffers[name]) != before[name])]
        assert len(moved) >= 2
        model(inputs)  # without params: in place, as ever
        assert_close(dict(model.meta_named_buffers()), buffers, "forward")
        _, after = backend64.modules.call_with_buffers(
            model, inputs, params=backend64.parameters(model), buffers=buffers, batch_norm="frozen"
        )
        assert_identical(backend64.numpy(after), backend64.numpy(buffers))


def test_wrong_buffers_and_policies_are_errors_that_help(backend64):
    model, images = network(backend64), backend64.images(IMAGES[0])
    call, buffers = backend64.modules.call_with_buffers, dict(model.meta_named_buffers())
    with pytest.raises(ValueError, match=r"`buffers` holds '1\.runing_mean'.*did you mean '1\.running_mean'"):
        call(model, images, buffers={**buffers, "1.runing_mean": buffers["1.running_mean"]})
    with pytest.raises(ValueError, match=r"`buffers` of MetaSequential must hold every .*'1\.running_mean' is missing"):
        call(model, images, buffers={name: each for name, each in buffers.items() if name != "1.running_mean"})
    with pytest.raises(ValueError, match=r"`buffers\['1\.running_mean'\]` .* must have shape \(3,\), got \(1,\)"):
        call(model, images, buffers={**buffers, "1.running_mean": buffers["1.running_mean"][:1]})
    for policy in ("per-step", "running"):
        with pytest.raises(ValueError, match=f"`batch_norm` must be 'batch' or 'frozen', got '{policy}'"):
            call(model, images, batch_norm=policy)


def test_an_error_restores_the_model(torch_kit):
    model = network(torch_kit)
    before = stored(torch_kit, model)
    with pytest.raises(RuntimeError, match=r"expected input\[1, 5, 6, 6\] to have 2 channels"):
        torch_kit.modules.call_with_buffers(model, torch_kit.images(np.ones((1, 6, 6, 5))))
    assert_identical(stored(torch_kit, model), before)
    assert every(getattr(layer, "_meta_within", None) is None for layer in model.modules())


def test_statistics_of_layers_without_parameters_do_not_move(backend64):
    """They have nothing in `params`, and are called with `params` all the same."""
    for kind, options in (
        ("MetaBatchNorm2d", {"affine": False}),
        ("MetaInstanceNorm2d", {"affine": False, "track_running_stats": True}),
    ):
        model = backend64.layer(
            "MetaSequential", backend64.layer("MetaConv2d", 2, 3, 3), backend64.layer(kind, 3, **options)
        )
        before = stored(backend64, model)
        model(backend64.images(IMAGES[0]), params=doubled(backend64, model))
        assert_identical(stored(backend64, model), before)


def test_a_model_keeps_its_own_policy_unless_told_otherwise(backend64):
    with backend64.mixed_dtypes():
        frozen = backend64.modules.as_meta_module(backend64.batch_normalised(), batch_norm="frozen")
        inputs, params = backend64.array(IMAGES.reshape(-1, 4)[:6]), backend64.parameters(frozen)
        call = backend64.modules.call_with_buffers
        expected = frozen(inputs, params=params)
        outputs, buffers = call(frozen, inputs, params=params)
        assert_close(outputs, expected, "forward")
        assert_identical(backend64.numpy(buffers), backend64.numpy(dict(frozen.meta_named_buffers())))
        outputs, _ = call(frozen, inputs, params=params, batch_norm="batch")
        assert_differs(outputs, expected)
        inside = backend64.layer("MetaSequential", frozen)
        inner = {f"0.{name}": each for name, each in params.items()}
        assert_close(call(inside, inputs, params=inner)[0], expected, "forward")
        assert_close(inside(inputs, params=inner), expected, "forward")


def test_calls_with_buffers_inside_each_other(torch_kit):
    call, nn = torch_kit.modules.call_with_buffers, torch_kit.torch.nn
    inner = torch_kit.layer("MetaBatchNorm1d", 4)

    class Outer(torch_kit.modules.MetaModule):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x, params=None):
            y, _ = call(self.inner, x, params=self.get_subdict(params, "inner"))
            return self.inner(y, params=self.get_subdict(params, "inner"))

    model = Outer()
    inputs, before = torch_kit.array(IMAGES.reshape(-1, 4)[:6]), stored(torch_kit, inner)
    call(model, inputs, params=torch_kit.parameters(model))
    assert_identical(stored(torch_kit, inner), before)
    assert isinstance(inner, nn.BatchNorm1d)


def test_buffers_of_a_parametrisation_do_not_move(torch_kit):
    torch = torch_kit.torch
    layer = torch.nn.utils.parametrizations.spectral_norm(torch_kit.layer("MetaLinear", 4, 3))
    before = stored(torch_kit, layer)
    layer(torch_kit.array(np.ones((2, 4))), params=torch_kit.parameters(layer))
    assert_identical(stored(torch_kit, layer), before)
