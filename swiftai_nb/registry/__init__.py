"""The catalog, the user's models, and which are installed. Does not import MLX or huggingface_hub."""
