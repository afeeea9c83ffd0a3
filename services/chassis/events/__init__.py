"""Facts between services: the envelope, the broker behind a port, consumers and projections."""
