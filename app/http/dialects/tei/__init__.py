"""text-embeddings-inference: its routes, request forms, headers and errors, at the root and below `/models/{model}`."""

from app.http.dialects.tei.api import TeiApi

API = TeiApi
