"""One file for each server that this one is compared with, and for each engine, each as its own documentation would have it written.

All but infinity serve the same weights through `TextModel`, on any of the engines; a peer's setting reaches it in the
environment: PORT, ENGINE, MODEL (a file or folder of the engine's), PRECISION, TOKENIZER, BATCH (most texts per run), WORKERS
(model processes), THREADS (of each).
"""
