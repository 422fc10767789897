"""Rows to look at and decide on: their pictures, the page, and the server that keeps the decisions."""
