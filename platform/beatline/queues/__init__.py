"""The named queues, what each is for, and which task goes where."""
