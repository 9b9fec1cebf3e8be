"""DiffusionKit as an engine: a worker for another interpreter, and the kernel's way to start it."""
