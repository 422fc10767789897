"""Arrays of rows, wherever they are stored."""
