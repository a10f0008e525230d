"""Sinusoid regression (Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning…", arXiv 1703.03400, section 5.1)."""

import numpy as np
import numpy.typing as npt

from metabridge import portable
from metabridge.splitters import Splitter
from metabridge.streams import uniforms
from metabridge.toy.base import Floats, ToyMetaDataset

__all__ = ["Sinusoid"]


class Sinusoid(ToyMetaDataset):
    """Tasks `y = a · sin(x − φ)` with a from U[0.1, 5], φ from U[0, π] and x from U[−5, 5].

    Predicting 0 has an expected squared error of 4.25, the best function that ignores the support set one of 3.01.

    >>> from metabridge.splitters import ClassSplitter
    >>> dataset = Sinusoid(num_samples_per_task=20)
    >>> dataset = ClassSplitter(dataset, num_train_per_class=10, num_test_per_class=10)
    >>> dataset.episodes(range(25))
    EpisodeBatch(25 episodes; train: (25, 10, 1) → (25, 10, 1), test: (25, 10, 1) → (25, 10, 1))

    Args:
        num_samples_per_task: points per episode, to be divided by the splitter.
        num_tasks: number of different sinusoids; none is stored.
        noise_std: standard deviation of Gaussian noise added to the targets, `None` for none.
        meta_split: `"train"`, `"val"` or `"test"`: three independent families.
        dataset_transform: a splitter.
    """

    input_range = (-5.0, 5.0)
    amplitude_range = (0.1, 5.0)
    phase_range = (0.0, float(np.pi))

    def __init__(
        self,
        num_samples_per_task: int,
        num_tasks: int = 1_000_000,
        noise_std: float | None = None,
        meta_split: str = "train",
        dataset_transform: Splitter | None = None,
    ) -> None:
        super().__init__(num_samples_per_task, num_tasks, noise_std, meta_split, dataset_transform)

    @property
    def parameter_ranges(self) -> dict[str, tuple[float, float]]:
        """The distribution of a task's parameters and inputs."""
        return {"input": self.input_range, "amplitude": self.amplitude_range, "phase": self.phase_range}

    def task_parameters(self, tasks: npt.ArrayLike) -> dict[str, Floats]:
        """`amplitude` and `phase` `(B,)` of the tasks with these numbers."""
        words = self.parameter_words(tasks, 2)
        return {
            "amplitude": uniforms(words[:, 0], *self.amplitude_range),
            "phase": uniforms(words[:, 1], *self.phase_range),
        }

    def inputs_from_words(self, words: npt.NDArray[np.uint64]) -> Floats:
        """Uniform inputs."""
        return uniforms(words, *self.input_range)

    def evaluate(self, tasks: npt.ArrayLike, inputs: Floats) -> Floats:
        """Noise-free targets `(B, n)` of tasks `(B,)` at `inputs` `(B, n)`."""
        parameters = self.task_parameters(tasks)
        return parameters["amplitude"][:, None] * portable.sin(inputs - parameters["phase"][:, None])
