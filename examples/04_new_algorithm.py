"""A new algorithm in either framework: Meta-Curvature, MAML whose gradients pass through learned matrices.

Park, Oliva 2019, arXiv 1902.03356. `python examples/04_new_algorithm.py --backend jax`
"""

import argparse
from importlib import import_module
from types import SimpleNamespace

from metabridge.adaptation.trees import map_leaves
from metabridge.configs import ModelConfig
from metabridge.networks.parameters import initial_parameters
from metabridge.toy.helpers import sinusoid

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--backend", default="torch", choices=["torch", "jax"])
parser.add_argument("--steps", type=int, default=2000)
arguments = parser.parse_args()

adaptation, algorithms, data, evaluation, functional, models, optimisers, weights = (
    import_module(f"{arguments.backend}_backend.{part}")
    for part in ("adaptation", "algorithms", "data", "evaluation", "functional", "models", "optimisers", "weights")
)
loss = functional.mean_squared_error
RATE = 0.01


def curved(curvature):
    """Gradient descent with `G -> M_1 G M_2`, one learned square matrix for each axis of a parameter."""

    def bend(name, gradient):
        first, *second = curvature[name]
        return first @ gradient @ second[0] if second else first @ gradient

    def update(gradients, state, params=None):
        return {name: -RATE * bend(name, gradient) for name, gradient in gradients.items()}, state

    return SimpleNamespace(init=lambda params: (), update=update)


class MetaCurvature(algorithms.Algorithm):
    """θ′ = θ − α M ∇ L_s(θ), meta-loss L_q(θ′), with θ = `params["network"]` and M = `params["curvature"]`."""

    has_inner_steps = True

    def predict_task(self, params, task, steps=None):
        adapted = adaptation.adapt(
            self.apply,
            loss,
            *task["train"],
            params=params["network"],
            optimiser=curved(params["curvature"]),
            steps=1 if steps is None else steps,
        )
        return self.apply(adapted.params, task["test"][0])

    def task_loss(self, params, task):
        return loss(self.predict_task(params, task), task["test"][1])


network = ModelConfig("mlp", input_shape=(1,), outputs=1, hidden=(40, 40))
theta = weights.from_neutral(initial_parameters(network, seed=0), network)
eye = import_module({"torch": "torch", "jax": "jax.numpy"}[arguments.backend]).eye
params = {"network": theta, "curvature": {name: [eye(size) for size in value.shape] for name, value in theta.items()}}

algorithm = MetaCurvature(models.build_model(network))
outer = optimisers.adam(0.001)
state = outer.init(params)

meta_train = sinusoid(shots=10)
for step, batch in enumerate(data.BatchMetaDataLoader(meta_train, batch_size=25, seed=0, num_batches=arguments.steps)):
    objective, gradients = algorithm.meta_gradient(params, batch)
    updates, state = outer.update(gradients, state, params)
    params = map_leaves(lambda value, update: value + update, params, updates)
    if step % max(1, arguments.steps // 10) == 0:
        print(f"meta-step {step:5d}  query loss {float(objective):.3f}")

meta_test = sinusoid(shots=10, meta_split="test")
for moment, inner_steps in (("before", 0), ("after", 1)):
    quality = evaluation.evaluate(algorithm, params, meta_test, episodes=600, seed=1, steps=inner_steps)
    print(f"{moment:6s} adaptation: {quality.measure} {quality} on 600 new sinusoids")
