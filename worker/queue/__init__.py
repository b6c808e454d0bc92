"""RQ's worker side, and the only place that imports it: how a worker is seen, what RQ hears of its jobs."""
