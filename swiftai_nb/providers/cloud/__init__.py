"""What the providers of cloud services and of HTTP servers share."""
