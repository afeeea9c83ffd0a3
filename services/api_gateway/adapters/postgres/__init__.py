"""Tenants, members and API keys in PostgreSQL."""
