"""A new algorithm in either framework: Meta-SGD, MAML with a learned inner learning rate for every parameter entry.

Li, Zhou, Chen, Li 2017, arXiv 1707.09835. `python examples/04_new_algorithm.py --backend jax`
"""

import argparse
from importlib import import_module

import numpy as np

from metabridge.configs import ModelConfig
from metabridge.networks.parameters import initial_parameters
from metabridge.runs.statistics import mean_and_ci95
from metabridge.toy.helpers import sinusoid

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--backend", default="torch", choices=["torch", "jax"])
parser.add_argument("--steps", type=int, default=2000)
arguments = parser.parse_args()

adaptation = import_module(f"{arguments.backend}_backend.adaptation")
algorithms = import_module(f"{arguments.backend}_backend.algorithms")
data = import_module(f"{arguments.backend}_backend.data")
models = import_module(f"{arguments.backend}_backend.models")
optimisers = import_module(f"{arguments.backend}_backend.optimisers")
weights = import_module(f"{arguments.backend}_backend.weights")
loss = import_module(f"{arguments.backend}_backend.functional").mean_squared_error


class MetaSGD(algorithms.Algorithm):
    """θ′ = θ − α ∘ ∇ L_s(θ), meta-loss L_q(θ′), with θ = `params["network"]` and α = `params["rates"]`."""

    has_inner_steps = True

    def predict_task(self, params, task, steps=None):
        adapted = adaptation.adapt(
            self.apply,
            loss,
            *task["train"],
            params=params["network"],
            optimiser=optimisers.sgd(params["rates"]),
            steps=1 if steps is None else steps,
        )
        return self.apply(adapted.params, task["test"][0])

    def task_loss(self, params, task):
        return loss(self.predict_task(params, task), task["test"][1])


network = ModelConfig("mlp", input_shape=(1,), outputs=1, hidden=(40, 40))
theta = weights.from_neutral(initial_parameters(network, seed=0), network)
params = {"network": theta, "rates": {name: 0 * value + 0.01 for name, value in theta.items()}}

meta_sgd = MetaSGD(models.build_model(network))
outer = optimisers.adam(0.001)
states = {part: outer.init(params[part]) for part in params}

meta_train = sinusoid(shots=10)
for step, batch in enumerate(data.BatchMetaDataLoader(meta_train, batch_size=25, seed=0, num_batches=arguments.steps)):
    objective, gradients = meta_sgd.meta_gradient(params, batch)
    for part, gradient in gradients.items():
        updates, states[part] = outer.update(gradient, states[part], params[part])
        params[part] = {name: value + updates[name] for name, value in params[part].items()}
    if step % max(1, arguments.steps // 10) == 0:
        print(f"meta-step {step:5d}  query loss {float(objective):.3f}")

tasks = sinusoid(shots=10, meta_split="test").episodes(range(600), seed=1)
for moment, inner_steps in (("before", 0), ("after", 1)):
    outputs = np.asarray(meta_sgd.predict(params, data.to_backend(tasks), steps=inner_steps))
    mean, ci95 = mean_and_ci95(((outputs - tasks["test"][1]) ** 2).mean(axis=(1, 2)))
    print(f"{moment:6s} adaptation: mean squared error {mean:.3f} ± {ci95:.3f} on 600 new sinusoids")
