"""The engine as a process of its own, and what the worker says to it."""
