"""Stores blocks of records on the local disk; a segment is buffer and checkpoint at once."""
