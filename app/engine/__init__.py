"""Engines: what answers token sequences, in batches, on one device.

`client` is what HTTP knows of one. `local` is the engine of this process: `preparation` gets a model ready (`golden`, `tuning`,
`warmup`), `batching` chooses what runs next, with `pace` to tell how long that takes and `device` to share it among models, and
`threads` runs it with the model's `runner`. An engine in another process is in `app.ipc`.
"""
