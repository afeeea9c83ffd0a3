"""The registry's rules and its blob store, without a database."""
