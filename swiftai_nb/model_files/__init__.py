"""What is in a model folder or file: family, components, configuration, samplers. Does not import MLX."""
