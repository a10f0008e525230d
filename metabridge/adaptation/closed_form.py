"""Checks of the arguments of solvers that fit a linear layer to a support set."""

from metabridge.checks import check_count, require

__all__ = ["check_regression_targets"]


def check_regression_targets(
    targets: tuple[int, ...], embeddings: tuple[int, ...], are_classes: bool, num_classes: int | None
) -> None:
    """Raise `ValueError` unless targets are classes `(…, n)` with their number, or numbers `(…, n, outputs)`.

    Args:
        targets: shape of the targets.
        embeddings: shape of the embeddings, `(…, n, D)`.
        are_classes: whether the targets are integers.
        num_classes: how many classes there are.
    """
    examples = tuple(embeddings[:-1])
    if are_classes:
        advice = "integers are classes; say how many there are"
        require(num_classes is not None, "num_classes", "a number for integer targets", num_classes, advice)
        check_count(num_classes, "num_classes")
        require(tuple(targets) == examples, "targets", f"of shape {examples}, a class an example", tuple(targets))
    else:
        wanted = f"of shape {(*examples, 'outputs')}, numbers for each example"
        fits = len(targets) == len(embeddings) and tuple(targets[:-1]) == examples
        require(fits, "targets", wanted, tuple(targets), "cast class numbers to integers")
