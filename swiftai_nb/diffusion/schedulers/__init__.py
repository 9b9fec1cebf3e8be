"""Noise schedules as pure functions and one file per sampler family."""
