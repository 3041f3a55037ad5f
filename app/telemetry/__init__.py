"""What an operator sees: metrics, traces and logs. Never a text of a request."""
