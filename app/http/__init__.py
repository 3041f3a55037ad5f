"""HTTP: the only package that uses FastAPI and Starlette.

`gateway` is the ASGI application that uvicorn calls. It passes inference requests directly to `inference`, and everything
else to the FastAPI application of `application`.
"""
