"""One run: the client and the tasks of its workers."""
