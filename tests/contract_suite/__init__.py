"""What every ImageGenerator promises, as a test class to inherit from."""
