"""Compare a graph with an independent implementation, and every sequence in a batch with the same sequence alone."""
