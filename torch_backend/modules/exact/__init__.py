"""torch operations whose second derivatives are missing or wrong, rewritten with operations where they are right."""

from torch_backend.modules.exact.mode import ExactDerivatives
from torch_backend.modules.exact.transforms import active_transforms

__all__ = ["ExactDerivatives", "active_transforms"]
