"""One job, from its place in the stream to its end. Knows no RQ and no torch."""
