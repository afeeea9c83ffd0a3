"""The history of the collector's database."""
