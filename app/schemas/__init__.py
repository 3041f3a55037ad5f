"""The requests and answers of the HTTP API, as callers see them in OpenAPI, and what is said of a request that is wrong."""
