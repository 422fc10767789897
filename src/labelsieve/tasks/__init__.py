"""Tasks: the functions that run on the workers."""
