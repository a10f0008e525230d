"""What MetaModules cost above their arithmetic (contract C12): one meta-gradient, against bare operations.

`python benchmarks/metamodules.py` meta-trains Conv4 and a small network on random images, 5-way, 1 shot, 15 queries,
one inner step of second order, in each framework that is installed. The limit is the same network as a plain function
of the framework's own operations; beside it stand the network made of MetaModules and, in torch, the plain network
through `as_meta_module`. All give the same meta-gradient, checked before anything is timed. They are timed in
alternation after a warm-up; the figures are medians, and a ratio is the bare function's time over theirs: 1 is the
limit.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from metabridge.configs import MAMLConfig, ModelConfig
from metabridge.networks.parameters import initial_parameters, relative_difference

TASKS, WAYS, QUERIES = 4, 5, 15
MODELS = {
    "Conv4-64 28×28": ModelConfig("conv4", (28, 28, 1), WAYS, (64, 64, 64, 64)),
    "Conv4-8 16×16": ModelConfig("conv4", (16, 16, 1), WAYS, (8, 8, 8, 8)),
}
ALGORITHM = MAMLConfig(inner_lr=0.1)


def episodes(model: ModelConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images `(TASKS, n, H, W, C)` and labels."""
    rng = np.random.default_rng(0)
    counts = {"train": WAYS, "test": WAYS * QUERIES}
    return {
        name: (
            rng.random((TASKS, count, *model.input_shape), np.float32),
            np.tile(np.arange(WAYS).repeat(count // WAYS), (TASKS, 1)),
        )
        for name, count in counts.items()
    }


def torch_contestants(model: ModelConfig) -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """Name → one meta-gradient in torch."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from torch_backend.algorithms import MAML
    from torch_backend.functional import cross_entropy
    from torch_backend.models import build_model
    from torch_backend.modules import as_meta_module
    from torch_backend.weights import from_neutral

    batch = {
        name: (torch.tensor(np.moveaxis(inputs, -1, 2).copy()), torch.tensor(targets))
        for name, (inputs, targets) in episodes(model).items()
    }
    params = from_neutral(initial_parameters(model, 0), model)

    def bare(p: dict[str, Any], x: Any) -> Any:
        for number in range(1, 5):
            layer = f"features.layer{number}"
            x = F.conv2d(x, p[f"{layer}.conv.weight"], p[f"{layer}.conv.bias"], padding=1)
            x = F.batch_norm(x, None, None, p[f"{layer}.norm.weight"], p[f"{layer}.norm.bias"], training=True)
            x = F.max_pool2d(F.relu(x), 2)
        return F.linear(x.flatten(1), p["head.weight"], p["head.bias"])

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)

        def forward(self, x: Any) -> Any:
            return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = (model.input_shape[-1], *model.hidden)
            blocks = {f"layer{n}": Block(channels[n - 1], channels[n]) for n in range(1, 5)}
            self.features = nn.ModuleDict(blocks)
            self.head = nn.Linear(params["head.weight"].shape[1], model.outputs)

        def forward(self, x: Any) -> Any:
            for layer in self.features.values():
                x = layer(x)
            return self.head(x.flatten(1))

    network, plain = build_model(model), as_meta_module(Plain())
    calls = {
        "bare operations": bare,
        "MetaModules": lambda p, x: network(x, params=p),
        "as_meta_module": lambda p, x: plain(x, params=p),
    }

    def contestant(apply: Callable[[Any, Any], Any]) -> Callable[[], dict[str, np.ndarray]]:
        maml = MAML.from_config(ALGORITHM, {"network": apply}, cross_entropy, None, "sequential")
        return lambda: {name: each.numpy() for name, each in maml.meta_gradient(params, batch)[1].items()}

    return {name: contestant(apply) for name, apply in calls.items()}


def jax_contestants(model: ModelConfig) -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """Name → one meta-gradient in JAX, compiled."""
    import jax
    import jax.numpy as jnp

    from jax_backend.algorithms import MAML
    from jax_backend.functional import cross_entropy
    from jax_backend.models import build_model
    from jax_backend.modules import Flatten, MaxPool2d
    from jax_backend.modules.conv import conv
    from jax_backend.weights import from_neutral

    batch = {name: (jnp.array(x), jnp.array(y)) for name, (x, y) in episodes(model).items()}
    params, network = from_neutral(initial_parameters(model, 0), model), build_model(model)

    def bare(p: dict[str, Any], x: Any) -> Any:
        for number in range(1, 5):
            layer = f"features.layer{number}"
            x = conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), p[f"{layer}.conv.weight"])
            x = x + p[f"{layer}.conv.bias"]
            x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5)
            x = MaxPool2d(2)(jax.nn.relu(x * p[f"{layer}.norm.weight"] + p[f"{layer}.norm.bias"]))
        return Flatten()(x) @ p["head.weight"] + p["head.bias"]

    def contestant(apply: Callable[[Any, Any], Any]) -> Callable[[], dict[str, np.ndarray]]:
        maml = MAML.from_config(ALGORITHM, {"network": apply}, cross_entropy, None, "sequential")
        gradient = jax.jit(lambda p: maml.meta_gradient(p, batch)[1])
        return lambda: {name: np.asarray(each) for name, each in gradient(params).items()}

    return {"bare operations": contestant(bare), "MetaModules": contestant(lambda p, x: network(x, params=p))}


def main() -> None:
    """Print one table for each framework that is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="timings of each, in alternation (default: 7)")
    repeats = parser.parse_args().repeats
    for framework, make in {"torch": torch_contestants, "jax": jax_contestants}.items():
        if importlib.util.find_spec(framework) is None:
            print(f"{framework} is not installed.")
            continue
        for title, model in MODELS.items():
            contestants = make(model)
            reference = contestants["bare operations"]()
            for name, run in contestants.items():
                error = relative_difference(run(), reference)
                if error > 1e-3:
                    raise AssertionError(f"{name} differs from bare operations by {error:.1e}: nothing is compared")
            times: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(repeats):
                for name, run in contestants.items():
                    begin = time.perf_counter()
                    run()
                    times[name].append(time.perf_counter() - begin)
            medians = {name: statistics.median(each) for name, each in times.items()}
            print(f"{framework}, {title}, {TASKS} tasks, one meta-gradient")
            for name, seconds in medians.items():
                print(f"  {name:<16} {1000 * seconds:>9.1f} ms   ratio {medians['bare operations'] / seconds:.2f}")


if __name__ == "__main__":
    main()
