"""What is in a model folder or file: family, components, configuration, samplers. Knows no MLX."""
