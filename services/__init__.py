"""Modelyard's services and the chassis that they are built on."""
