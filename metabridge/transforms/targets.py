"""Target transforms: which integer stands for which class of a task."""

__all__ = ["Categorical"]


class Categorical:
    """Label the N classes of a task by a random permutation of 0 … N−1, drawn from the episode's stream.

    Without it a class's label is its position in the task's class tuple, which is itself in random order;
    with it, label and position are independent, as in Torchmeta.

    Args:
        num_classes: N; `None` takes the task's number of ways.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes

    def check(self, ways: int) -> None:
        """Raise `ValueError` unless this transform labels exactly `ways` classes."""
        if self.num_classes is not None and self.num_classes != ways:
            raise ValueError(
                f"`target_transform` Categorical({self.num_classes}) must name as many classes as a task has, "
                f"which is {ways}; write Categorical({ways})."
            )

    def __repr__(self) -> str:
        return f"Categorical({'' if self.num_classes is None else self.num_classes})"
