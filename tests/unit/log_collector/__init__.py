"""The collector's pure parts, and its files on a temporary folder."""
