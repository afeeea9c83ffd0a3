"""The history of the registry's database."""
