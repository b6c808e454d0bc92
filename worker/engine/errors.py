"""What can go wrong between the engine's parts. None of these reaches a user, who gets a JobError."""


class CacheFull(Exception):
    """The sequence does not fit into the cache. The engine checks before it starts, so this is a bug of ours."""


class NotSupported(Exception):
    """A path cannot run this model, or our kernels are not exact here. The message says why."""
