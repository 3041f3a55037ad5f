"""Which models a service has: found, loaded, replaced and left out."""
