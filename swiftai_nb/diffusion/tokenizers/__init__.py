"""Words to token ids, on the `tokenizers` wheel alone."""
