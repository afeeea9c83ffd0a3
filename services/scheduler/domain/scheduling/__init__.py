"""Who goes where, decided from a snapshot."""
