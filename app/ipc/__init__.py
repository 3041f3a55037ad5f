"""Front ends and an engine in processes of their own, over a Unix socket.

`frames` cuts the byte stream, `codec` turns requests and replies into flat arrays, `client` is the `EngineClient` of a
front end, `server` is what the engine process listens with. Requests that reach a front end in one turn of its loop
travel as one frame, and so do the replies of one batch.
"""
