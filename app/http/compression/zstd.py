"""zstd, which Python has since 3.14."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd as zstd  # noqa: PLC0414 - for the modules beside this one
else:
    from backports import zstd as zstd  # noqa: PLC0414

__all__ = ["zstd"]
