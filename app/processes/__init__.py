"""The processes of a service and how each begins, works and ends. `launch` starts all of them."""
