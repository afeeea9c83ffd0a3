"""Projections that the gateway keeps from topics."""
