"""Beatline."""
