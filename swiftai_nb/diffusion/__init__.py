"""Diffusion models on MLX: arrays in, arrays out. The only floor that imports mlx."""
