"""HTTP: the only package that uses FastAPI and Starlette.

uvicorn (`server`, `connection`) calls `dispatch`, which passes inference requests to `inference`, and everything else to the
FastAPI application of `application`. `asgi` has what both are made of, and renders every error.
"""
