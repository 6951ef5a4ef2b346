"""What runs inside a worker around a task: publish, claim, lease, end."""
