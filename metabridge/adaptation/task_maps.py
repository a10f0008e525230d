"""How the tasks of a meta-batch are computed: all at once, or one after another.

Vectorising over tasks turns the convolutions of differently adapted networks into grouped convolutions. A GPU
runs those well; on a CPU they cost two to three times the loop in PyTorch and up to thirty times in XLA.
Networks of matrix products gain from vectorising everywhere.
"""

from typing import Literal

__all__ = ["TaskMap", "choose_task_map"]

TaskMap = Literal["vectorised", "sequential"]


def choose_task_map(device_kind: str, has_convolutions: bool) -> TaskMap:
    """The faster of the two on this device for such a network.

    Args:
        device_kind: `"cpu"`, `"cuda"`, `"gpu"`, …
        has_convolutions: whether the network has parameters of convolutions.
    """
    return "sequential" if device_kind == "cpu" and has_convolutions else "vectorised"
