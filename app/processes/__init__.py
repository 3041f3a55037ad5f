"""The processes of a service: how each begins, works and ends. `launch` starts all of them."""
