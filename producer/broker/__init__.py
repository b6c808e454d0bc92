"""How to reach a server: URLs, clients, what its errors mean, waiting out an outage, a server of one's own.

Knows redis-py and the contract's errors, and nothing of jobs.
"""
