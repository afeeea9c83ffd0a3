"""What drives the gateway: REST, and the topic of replica endpoints."""
