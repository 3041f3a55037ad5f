"""Front ends and an engine in processes of their own, over a Unix socket.

`frames` cuts the byte stream, `codec` declares and encodes the messages, `remote_engine` is the `EngineClient` of a front end,
`engine_server` listens in the engine's process. Requests that reach a front end in one iteration of its event loop travel as one
frame, and so do the replies of one batch.
"""
