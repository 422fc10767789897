"""Files and objects at a path or URL."""
