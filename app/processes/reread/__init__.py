"""What is read again while the service runs: keys and certificates."""
