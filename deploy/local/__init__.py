"""The local stack: every real part that Modelyard talks to, on loopback, under one folder.

Owns: how PostgreSQL, Kafka, Redis, Jaeger, a Docker engine and the four services are found,
started, adopted, looked at and stopped on one machine. Leaves to the services what they do, and to
`make` how a person asks. Run by `python -m deploy.local up|down|status|infra|prepare|images|clean`.

Always holds: a process is signalled only if its pid, start time and boot match what was recorded at
its start; never by name.
"""
