"""The pipeline on the client: from the user's inputs to a published result."""
