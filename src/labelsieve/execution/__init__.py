"""Who runs the tasks: threads, forked processes, the workers of a cluster."""
