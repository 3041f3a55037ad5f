"""One file for each server that this one is compared with, each as its own documentation would have it written.

All but infinity serve the same graph through the same `PaddedModel`; a peer's setting reaches it in the environment:
PORT, MODEL (the graph), TOKENIZER, BATCH (most texts per run), WORKERS (model processes), THREADS (of each).
"""
