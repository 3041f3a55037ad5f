"""What stops an export."""


class ExportError(Exception):
    """A checkpoint cannot be exported, or a bundle failed its checks. The message says why and what to do."""


def first_line(error: Exception) -> str:
    """Return the first line of what another library says, for a message of one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
