"""Tasks are mapped in one place: every way of mapping them gives the same numbers."""

import numpy as np
import pytest
from tolerances import assert_close

from metabridge.adaptation.task_maps import Chunked

TASKS = 5
MAPS = ["vectorised", "sequential", Chunked(1), Chunked(2), Chunked(5), Chunked(9)]


@pytest.fixture
def problem(backend64):
    """A loss of one task, parameters as a tree, and a meta-batch."""
    rng = np.random.default_rng(0)
    array = backend64.array
    batch = {name: (array(rng.standard_normal((TASKS, 4, 2))), array(rng.standard_normal((TASKS, 4)))) for name in "ab"}

    def loss(params, task):
        inputs, targets = task["a"]
        return ((inputs @ params["w"][0] - targets) ** 2).mean() + (task["b"][0].sum() * params["w"][0]).sum() ** 3

    return loss, {"w": [array(rng.standard_normal(2))], "unused": array(np.ones(3))}, batch


@pytest.mark.parametrize("task_map", MAPS, ids=str)
def test_every_map_gives_the_mean_and_its_gradient(backend64, problem, task_map):
    loss, params, batch = problem
    tasks = [{name: (x[i], y[i]) for name, (x, y) in batch.items()} for i in range(TASKS)]
    values = np.array([float(loss(params, task)) for task in tasks])
    gradients = [backend64.numpy(backend64.gradient(lambda p, t=t: loss(p, t), params)["w"][0]) for t in tasks]
    found, gradient = backend64.tasks.mean_gradient(loss, params, batch, task_map)
    assert_close(found, values.mean(), "forward")
    assert_close(gradient["w"][0], np.mean(gradients, axis=0), "gradient")
    assert not backend64.numpy(gradient["unused"]).any()
    mapped = backend64.tasks.map_tasks(lambda task: loss(params, task), batch, task_map)
    assert_close(mapped, values, "forward")


@pytest.mark.parametrize("task_map", MAPS, ids=str)
def test_torch_gradients_leave_no_graph(torch_kit, task_map):
    torch = torch_kit.torch
    weight = torch.ones(2, requires_grad=True)
    batch = {"train": (torch.ones(3, 4, 2), torch.ones(3, 4))}
    value, gradient = torch_kit.tasks.mean_gradient(
        lambda p, task: (task["train"][0] @ p["w"]).sum(), {"w": weight}, batch, task_map
    )
    assert not value.requires_grad
    assert not gradient["w"].requires_grad
    assert weight.grad is None


@pytest.mark.parametrize("task_map", MAPS, ids=str)
def test_torch_tasks_draw_as_they_are_told_in_every_map(torch_kit, task_map):
    """`"same"` draws the very same numbers whatever the map, and moves the random state as one task does."""
    torch, tasks = torch_kit.torch, torch_kit.tasks
    batch = {"train": (torch.ones(TASKS, 1000), torch.ones(TASKS))}

    def dropped(task):
        first, second = (torch.nn.functional.dropout(task["train"][0]) for _ in range(2))
        return first + 3 * second

    torch.manual_seed(0)
    once = dropped({"train": (torch.ones(1000), torch.ones(()))})
    afterwards = torch.rand(1)
    torch.manual_seed(0)
    same = tasks.map_tasks(dropped, batch, task_map, "same")
    assert torch.equal(same, once.expand(TASKS, -1))
    assert torch.equal(torch.rand(1), afterwards)
    torch.manual_seed(0)
    weight = {"w": torch.ones(1000)}
    _, gradient = tasks.mean_gradient(lambda p, task: (dropped(task) * p["w"]).sum(), weight, batch, task_map, "same")
    assert_close(gradient["w"], once, "forward_float32")
    different = tasks.map_tasks(dropped, batch, task_map, "different")
    assert len({tuple(each) for each in different.tolist()}) == TASKS
    for call in (
        lambda: tasks.map_tasks(dropped, batch, task_map),
        lambda: tasks.mean_gradient(lambda p, task: (dropped(task) * p["w"]).sum(), weight, batch, task_map),
    ):
        with pytest.raises(RuntimeError, match="random"):
            call()


def test_torch_says_how_single_tasks_may_draw(torch_kit):
    torch = torch_kit.torch
    batch = {"train": (torch.ones(2, 3), torch.ones(2))}
    with pytest.raises(RuntimeError, match="pass randomness='different' to draw for every task, 'same' to draw once"):
        torch_kit.tasks.map_tasks(lambda task: task["train"][0] * torch.rand(3), batch, "sequential")
    elsewhere = {"train": (torch.ones(2, 3, device="meta"), torch.ones(2, device="meta"))}
    with pytest.raises(ValueError, match="`randomness` must be 'different' on meta, whose random state is unknown"):
        torch_kit.tasks.map_tasks(lambda task: task["train"][0], elsewhere, "sequential", "same")


@pytest.mark.parametrize("task_map", ["vectorised", "sequential", Chunked(2)], ids=str)
def test_a_meta_gradient_can_be_differentiated(backend64, problem, task_map):
    """‖∇L‖² and L by the parameters, against central differences: no map cuts the outer derivative."""
    loss, params, batch = problem

    def outer(w):
        value, gradient = backend64.tasks.mean_gradient(loss, {**params, "w": [w]}, batch, task_map)
        return value + (gradient["w"][0] ** 2).sum()

    found = backend64.numpy(backend64.gradient(outer, params["w"][0]))
    at, compiled = backend64.numpy(params["w"][0]), backend64.compile(outer)
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        ahead, behind = (float(compiled(backend64.array(at + sign * step))) for sign in (1, -1))
        assert_close(found[axis], (ahead - behind) / 2e-5, "finite_difference")


@pytest.mark.parametrize("task_map", ["vectorised", "sequential", Chunked(2)], ids=str)
def test_leaves_without_a_gradient_go_along(backend64, problem, task_map):
    loss, params, batch = problem
    more = {**params, "power": backend64.array(np.array(2)), "empty": backend64.array(np.zeros((0, 3)))}

    def with_power(values, task):
        return loss(values, task) ** values["power"] + values["empty"].sum()

    value, gradient = backend64.tasks.mean_gradient(with_power, more, batch, task_map)
    assert gradient["power"] is None
    assert backend64.numpy(gradient["empty"]).shape == (0, 3)
    assert backend64.numpy(gradient["w"][0]).any()
    alone, none = backend64.tasks.mean_gradient(lambda _, task: loss(params, task) ** 2, {}, batch, task_map)
    assert_close(alone, value, "forward")
    assert none == {}
