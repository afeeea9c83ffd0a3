"""The collector's pure parts."""
