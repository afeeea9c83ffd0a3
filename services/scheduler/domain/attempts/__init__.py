"""One try to run something: a job or a replica."""
