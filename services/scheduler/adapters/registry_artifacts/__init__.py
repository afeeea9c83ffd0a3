"""The registry's artifact store as a node uses it, with a cache of its own."""
