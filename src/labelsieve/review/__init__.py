"""What follows a result: review, corrections, audits, comparison. Nothing in the core imports it."""
