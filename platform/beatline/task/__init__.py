"""What a task sees: its class, and the run it executes."""
