"""What the gateway does itself; whatever another service owns is called straight from a route."""
