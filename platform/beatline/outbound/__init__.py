"""Requests to addresses that a person has written into a definition: only to allowed ones, and bounded in time."""
