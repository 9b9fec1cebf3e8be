"""What runs in the download process."""
