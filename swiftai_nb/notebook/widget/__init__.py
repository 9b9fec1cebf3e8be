"""`ImagineWidget`, the kernel's half; js/ holds the page's."""
