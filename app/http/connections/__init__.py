"""The connections of callers: taken, spread over the processes, read as HTTP, held open and closed."""
