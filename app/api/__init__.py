"""HTTP: the only package that knows FastAPI and Starlette.

`gateway` is the ASGI application that uvicorn calls; inference requests go straight from it to `inference`, everything
else goes through the FastAPI application of `application`.
"""
