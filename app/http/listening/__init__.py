"""Where the server listens: the sockets of each port, and what is answered there."""
