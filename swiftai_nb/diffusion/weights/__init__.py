"""From files on disk to loaded modules: finding, renaming, quantising, strict loading."""
