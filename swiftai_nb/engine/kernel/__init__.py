"""The kernel's side of the engine."""
