"""Which models exist, which are on this disk, and how they get there. Knows no MLX."""
