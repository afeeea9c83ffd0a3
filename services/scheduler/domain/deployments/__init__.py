"""Model servers that are kept running."""
