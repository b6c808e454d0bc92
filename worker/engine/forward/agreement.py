"""Whether a kernel calculates on the machine at hand what torch calculates: asked once, when a worker starts."""

from torch import Tensor

from ..errors import NotSupported

TOLERANCE = 0.02
"""Of the norm of a difference to the norm of what is right. Rounding to bfloat16 alone gives 0.002."""


def require_agreement(what: str, found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raises NotSupported where the two differ.  expected: float32, of the same shape."""
    off = ((found.float() - expected).norm() / expected.norm()).item()
    if not off < tolerance:  # NaN is neither
        raise NotSupported(f"{what} is off by {off:.2g} here")
