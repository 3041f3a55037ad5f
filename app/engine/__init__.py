"""Engines: what answers token sequences, in batches, on one device.

`protocols` says what HTTP knows of an engine, and what an engine knows of a model's runner. `local` is the engine of this
process. `preparation` gets a model ready for it: `golden` replays the bundle's answers, `tuning` measures, `warmup` takes the
device's memory. `batcher` runs what waits in a `queue`: `admission` says which requests may wait there, `estimate` how long
batches take, `slots` which model's batch is next on the device, and `threads` runs it. An engine in another process is in
`app.ipc`.
"""
