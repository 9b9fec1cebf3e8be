"""From files on disk to loaded modules: finding, renaming, quantizing, strict loading."""
