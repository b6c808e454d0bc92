"""From a folder and the name of a device to a model in its memory, and how long a context fits beside it."""
