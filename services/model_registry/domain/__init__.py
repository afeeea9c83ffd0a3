"""What a model, a version and an artifact are, and the rules between them."""
