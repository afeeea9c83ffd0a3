"""What the edge itself decides: keys, scopes, rate policies, routes to replicas."""
