"""The public edge: who calls, may they, how often; then on to the service that owns the answer."""
