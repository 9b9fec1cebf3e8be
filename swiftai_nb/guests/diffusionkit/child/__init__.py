"""What DiffusionKit's own interpreter runs."""
