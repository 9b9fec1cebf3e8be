"""Which models there are, and which of them are installed. Does not import MLX or huggingface_hub."""
