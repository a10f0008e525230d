"""MAML on sinusoids, the loop in plain sight, in either framework.

`python examples/01_sinusoid_maml.py --backend jax`
"""

import argparse

from metabridge import EpisodeLoader
from metabridge.backends import load_backend
from metabridge.networks.parameters import initial_parameters
from metabridge.runs.recipes import make_meta_datasets, make_run
from metabridge.runs.statistics import mean_and_ci95

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--backend", default="torch", choices=["torch", "jax"])
parser.add_argument("--steps", type=int, default=2000)
arguments = parser.parse_args()

run = make_run("sinusoid", steps=arguments.steps)
meta_train, meta_test = make_meta_datasets(run, root="data")

backend = load_backend(arguments.backend)
learner = backend.learner(run, initial_parameters(run.layers, run.seed))

for step, batch in enumerate(EpisodeLoader(meta_train, run.meta_batch_size, run.steps, run.seed)):
    loss = learner.step(backend.receive(batch))
    if step % 200 == 0:
        print(f"meta-step {step:5d}  query loss {float(loss):.3f}")

test_tasks = backend.receive(meta_test.episodes(range(600), seed=1))
for inner_steps in (0, 1, 10):
    mean, ci95 = mean_and_ci95(learner.evaluate(test_tasks, inner_steps))
    print(f"{inner_steps:2d} inner steps: mean squared error {mean:.3f} ± {ci95:.3f} on 600 new sinusoids")
