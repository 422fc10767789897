"""Labels as they are stored, decisions about them, and what these make of them."""
