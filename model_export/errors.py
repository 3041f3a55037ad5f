"""What stops an export."""


class ExportError(Exception):
    """A checkpoint cannot be exported, or a bundle failed its checks. The message says why and what to do."""
