"""Summaries of label issues among pixels."""
