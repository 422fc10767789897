"""What runs on the client: from the inputs as given to a published result."""
