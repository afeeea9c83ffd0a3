"""Tenants and API keys in PostgreSQL."""
