"""The life of a job on Redis, for both sides: every step that changes it, a script that stands or falls whole.

README.md has the table: state, transition, who may, script, test. Imports the contract and redis, and no more: the
names of RQ's keys that a step touches are in `rq_names`.
"""
