"""The model registry: models, versions, aliases, tags, artifacts and their bytes."""
