"""Models, versions and what tenants have stored, in PostgreSQL."""
