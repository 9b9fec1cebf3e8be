"""One file per network, written over the key names of diffusers."""
