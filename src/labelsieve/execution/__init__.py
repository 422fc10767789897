"""Executors: threads, forked processes and clusters that run the tasks, and their progress."""
