"""A running cell: its live view, its Cancel, its end."""
