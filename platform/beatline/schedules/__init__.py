"""When something should run: what a schedule is, its slots, what becomes of them, and where it is kept."""
