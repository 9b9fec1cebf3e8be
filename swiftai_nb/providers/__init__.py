"""One file per back end; each turns foreign errors into AIError once."""
