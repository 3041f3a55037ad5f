"""What the protocol tells the application of how a request arrived: keys of its ASGI scope.

Absent where another server than ours reads HTTP. Imports nothing of the project.
"""

from typing import Final

READ_AT: Final = "bert.read_at"
"""When its last byte had been read, by the monotonic clock. Absent until then."""
STALLED: Final = "bert.stalled"
"""True once it may take no more time to arrive."""
