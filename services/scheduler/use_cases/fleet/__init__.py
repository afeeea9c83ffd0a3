"""What is done with nodes as a whole."""
