"""Our operator for products on a CPU. Compiled at a worker's start, and imported where it is to be."""
