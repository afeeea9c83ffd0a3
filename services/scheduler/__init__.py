"""Runs all that runs: queues, nodes, jobs, attempts and deployments."""
