"""Sinusoid regression (Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning…", arXiv 1703.03400, section 5.1)."""

import math

from metabridge.streams import portable
from metabridge.toy.base import Floats, TaskParameters, ToyMetaDataset

__all__ = ["Sinusoid"]


class Sinusoid(ToyMetaDataset):
    """Tasks `y = a · sin(x − φ)` with a from U[0.1, 5], φ from U[0, π] and x from U[−5, 5].

    Predicting 0 has an expected squared error of 4.25, the best function that ignores the support set one of 3.01.
    The paper does not state the phase's sign, its code subtracts it; as φ covers half a turn, the sign matters.

    >>> from metabridge.episodes.splitters import ClassSplitter
    >>> dataset = Sinusoid(num_samples_per_task=20)
    >>> dataset = ClassSplitter(dataset, num_train_per_class=10, num_test_per_class=10)
    >>> dataset.episodes(range(25))
    EpisodeBatch(25 episodes; train: (25, 10, 1) → (25, 10, 1), test: (25, 10, 1) → (25, 10, 1))

    Args:
        num_samples_per_task: points per episode, to be divided by the splitter.
        num_tasks: number of different sinusoids; none is stored.
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

    input_range = (-5.0, 5.0)
    amplitude_range = (0.1, 5.0)
    phase_range = (0.0, math.pi)

    @property
    def parameter_ranges(self) -> dict[str, tuple[float, float]]:
        """The distribution of `amplitude`, `phase` and the inputs."""
        return {"input": self.input_range, "amplitude": self.amplitude_range, "phase": self.phase_range}

    def function(self, parameters: TaskParameters, inputs: Floats) -> Floats:
        """`a · sin(x − φ)`, `(B, n)`."""
        return parameters["amplitude"][:, None] * portable.sin(inputs - parameters["phase"][:, None])
