"""Hypothesis without deadlines: how long one example takes says how busy the machine is, and nothing else."""

from hypothesis import settings

settings.register_profile("genqueue", deadline=None)
settings.load_profile("genqueue")
