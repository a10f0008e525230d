"""Harmonic regression (Lacoste et al. 2018, "Uncertainty in Multitask Transfer Learning", arXiv 1806.07528)."""

import math

import numpy as np
import numpy.typing as npt

from metabridge.episodes.splitters import Splitter
from metabridge.streams import normals, portable
from metabridge.toy.base import Floats, TaskParameters, ToyMetaDataset

__all__ = ["Harmonic"]


class Harmonic(ToyMetaDataset):
    """Tasks `y = a₁ · sin(ωx + b₁) + a₂ · sin(2ωx + b₂)`: a wave and its octave, seen through a window of inputs.

    Both amplitudes are from N(0, 1), both phases from U[0, 2π] and the frequency ω from U[5, 7]. The inputs are from
    N(m, 1) with a centre m from U[−4, 4], one for each task. No function that ignores the support set does better
    than predicting 0, whose expected squared error is 1.

    The distributions are those of Torchmeta's code. Its documentation calls [5, 7] the range of the amplitudes; its
    code makes it the frequency's, as do we. The noise of the paper's targets is not known for certain; as in
    Torchmeta, the default is none.

    >>> from metabridge.episodes.splitters import ClassSplitter
    >>> dataset = Harmonic(num_samples_per_task=20)
    >>> dataset = ClassSplitter(dataset, num_train_per_class=10, num_test_per_class=10)
    >>> dataset.episodes(range(25))
    EpisodeBatch(25 episodes; train: (25, 10, 1) → (25, 10, 1), test: (25, 10, 1) → (25, 10, 1))
    >>> list(dataset.task_parameters([0]))
    ['centre', 'frequency', 'phase_1', 'phase_2', 'amplitude_1', 'amplitude_2']

    Args:
        num_samples_per_task: points per episode, to be divided by the splitter.
        num_tasks: number of different tasks, Torchmeta's by default; none is stored.
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

    centre_range = (-4.0, 4.0)
    frequency_range = (5.0, 7.0)
    phase_range = (0.0, 2 * math.pi)

    def __init__(
        self,
        num_samples_per_task: int,
        num_tasks: int = 5_000,
        noise_std: float | None = None,
        meta_split: str | None = None,
        dataset_transform: Splitter | None = None,
        *,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
    ) -> None:
        super().__init__(
            num_samples_per_task,
            num_tasks,
            noise_std,
            meta_split,
            dataset_transform,
            meta_train=meta_train,
            meta_val=meta_val,
            meta_test=meta_test,
        )

    @property
    def parameter_ranges(self) -> dict[str, tuple[float, float]]:
        """The distribution of all but amplitudes and inputs, which are normal."""
        return {
            "centre": self.centre_range,
            "frequency": self.frequency_range,
            "phase_1": self.phase_range,
            "phase_2": self.phase_range,
        }

    def task_parameters(self, tasks: npt.ArrayLike) -> TaskParameters:
        """`centre`, `frequency`, `phase_1`, `phase_2`, `amplitude_1` and `amplitude_2` `(B,)`.

        Raises:
            IndexError: if a number is not in [0, `num_tasks`).
        """
        words = self.parameter_words(tasks, 6)
        amplitudes = normals(words[:, 4:])
        return {
            **self.uniform_parameters(words[:, :4]),
            "amplitude_1": amplitudes[:, 0],
            "amplitude_2": amplitudes[:, 1],
        }

    def inputs_from_words(self, parameters: TaskParameters, words: npt.NDArray[np.uint64]) -> Floats:
        """Normal inputs `(B, n)` around the task's centre."""
        return parameters["centre"][:, None] + normals(words)

    def function(self, parameters: TaskParameters, inputs: Floats) -> Floats:
        """`a₁ · sin(ωx + b₁) + a₂ · sin(2ωx + b₂)`, `(B, n)`."""
        columns = {name: values[:, None] for name, values in parameters.items()}
        angle = columns["frequency"] * inputs
        first = columns["amplitude_1"] * portable.sin(angle + columns["phase_1"])
        return first + columns["amplitude_2"] * portable.sin(2 * angle + columns["phase_2"])
