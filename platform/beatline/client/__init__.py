"""For applications: accept runs in their own transactions."""
