"""What a cell returns: pictures, contact sheets, files."""
