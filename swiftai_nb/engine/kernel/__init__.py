"""The engine as the kernel sees it."""
