"""Providers of pictures; each converts the errors of its library to AIError."""
