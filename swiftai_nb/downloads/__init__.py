"""Getting models onto this disk, checking them and removing them."""
