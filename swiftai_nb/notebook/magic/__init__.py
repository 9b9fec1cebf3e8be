"""The magics: parsing, requests, completion and the commands beside `%imagine`."""
