"""Sinusoids and lines (Finn, Xu, Levine 2018, "Probabilistic Model-Agnostic Meta-Learning", arXiv 1806.02817)."""

import numpy as np
import numpy.typing as npt

from metabridge.streams import bounded_integers
from metabridge.toy.base import Floats, TaskParameters
from metabridge.toy.sinusoid import Sinusoid

__all__ = ["SinusoidAndLine"]


class SinusoidAndLine(Sinusoid):
    """Every task is, with equal odds, a sinusoid `y = a · sin(x − φ)` or a line `y = s · x + c`.

    Amplitude, phase and inputs are distributed as in `Sinusoid`; slope s and intercept c are from U[−3, 3]. Few
    points often fit both kinds, which is what the problem was made for. Predicting 0 has an expected squared error
    of 16.13, the best function that ignores the support set one of 15.81.

    The paper's targets are reported to have noise of `noise_std=0.3`; as in Torchmeta, the default is none.
    Torchmeta makes exactly half of the `num_tasks` tasks sinusoids, so that a task's kind depends on how many tasks
    there are. Here a coin of its own decides each task: one half is the odds, and another `num_tasks` changes no task.

    >>> from metabridge.episodes.splitters import ClassSplitter
    >>> dataset = SinusoidAndLine(num_samples_per_task=15, noise_std=0.3)
    >>> dataset = ClassSplitter(dataset, num_train_per_class=5, num_test_per_class=10)
    >>> dataset.episodes(range(25))
    EpisodeBatch(25 episodes; train: (25, 5, 1) → (25, 5, 1), test: (25, 10, 1) → (25, 10, 1))
    >>> dataset.is_sinusoid(range(6)).tolist()
    [True, False, False, False, True, False]

    Args:
        num_samples_per_task: points per episode, to be divided by the splitter.
        num_tasks: number of different sinusoids and lines; none is stored.
        noise_std: standard deviation of Gaussian noise added to the targets, `None` for none.
        meta_split: `"train"`, `"val"` or `"test"`: three independent families. Without it, and without one of the
            three flags, `"train"`.
        dataset_transform: a splitter.
        meta_train: the family `"train"`; at most one of these three, or `meta_split`, may be given.
        meta_val: the family `"val"`.
        meta_test: the family `"test"`.

    Raises:
        ValueError: for counts below 1, a negative noise, several meta-splits, or fewer points than the splitter needs.
    """

    slope_range = (-3.0, 3.0)
    intercept_range = (-3.0, 3.0)

    @property
    def parameter_ranges(self) -> dict[str, tuple[float, float]]:
        """The distribution of the sinusoids' and the lines' parameters and of the inputs."""
        return {**super().parameter_ranges, "slope": self.slope_range, "intercept": self.intercept_range}

    def task_parameters(self, tasks: npt.ArrayLike) -> TaskParameters:
        """`amplitude`, `phase`, `slope` and `intercept` `(B,)`; those of the kind that a task is not are 0.

        Raises:
            IndexError: if a number is not in [0, `num_tasks`).
        """
        words = self.parameter_words(tasks, 5)
        is_sinusoid = bounded_integers(words[:, 4], 2) == 1
        drawn = self.uniform_parameters(words[:, :4])
        return {
            name: np.where(is_sinusoid == (name in ("amplitude", "phase")), values, 0.0)
            for name, values in drawn.items()
        }

    def is_sinusoid(self, tasks: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """`(B,)` whether the tasks with these numbers are sinusoids; the others are lines."""
        return self.task_parameters(tasks)["amplitude"] > 0

    def function(self, parameters: TaskParameters, inputs: Floats) -> Floats:
        """`a · sin(x − φ) + s · x + c`, `(B, n)`: exact for either kind, as the parameters of the other are 0."""
        slope, intercept = parameters["slope"][:, None], parameters["intercept"][:, None]
        return super().function(parameters, inputs) + slope * inputs + intercept
