"""Which models exist, which are on this disk, and how to fetch them."""
