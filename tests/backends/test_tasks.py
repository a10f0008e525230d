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


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_torch_vectorised_tasks_draw_as_they_are_told(torch_kit, randomness):
    torch = torch_kit.torch
    batch = {"train": (torch.ones(2, 1000), torch.ones(2))}

    def dropped(task):
        return torch.nn.functional.dropout(task["train"][0])

    first, second = torch_kit.tasks.map_tasks(dropped, batch, "vectorised", randomness)
    assert torch.equal(first, second) == (randomness == "same")
    with pytest.raises(RuntimeError, match="randomness"):
        torch_kit.tasks.map_tasks(dropped, batch, "vectorised")
