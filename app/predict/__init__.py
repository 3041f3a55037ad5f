"""`python -m app predict`: the predictions of one model for the rows of a file, through the server's engine, without a server."""
