"""`end`, by its name here: it is the producer's."""

from ..ending import end

__all__ = ["end"]
