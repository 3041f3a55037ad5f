"""The processes of a service under one that starts, watches and ends them."""
