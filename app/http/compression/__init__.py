"""Compressed bodies of requests and answers: `Content-Encoding` and `Accept-Encoding`."""
