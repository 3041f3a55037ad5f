"""Keys of the ASGI scope by which `protocol` tells the application how a request has arrived.

They are missing if another server reads HTTP. Imports nothing from this project.
"""

from typing import Final

READ_AT: Final = "bert.read_at"
"""When its last byte was read (monotonic clock); missing until then."""
STALLED: Final = "bert.stalled"
"""True once its time to arrive is over."""
