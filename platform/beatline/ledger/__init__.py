"""The history of every run, and what keeps it true: events, recorder, reconciler, retention."""
