"""The local engine: a child process that loads models and generates pictures."""
