"""Text encoder, denoiser and decoder put together, one file per model family."""
