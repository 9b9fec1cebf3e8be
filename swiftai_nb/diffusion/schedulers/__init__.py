"""Noise schedules and samplers as functions."""
