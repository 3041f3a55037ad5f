"""Errors in the log without their messages, which may quote the text that they came by."""

import os


def unquoted(error: BaseException) -> Exception:
    """Return what may be logged of an error: its type and traceback, and those of what it came from.

    `KeyError` quotes what is not there, `int` what is no number, pydantic what is not valid. Of an error of the system the log
    has what the system calls it.
    """
    first = last = _bare(error)
    seen = {id(error)}
    while (before := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        if id(before) in seen:
            break
        seen.add(id(before))
        bare = _bare(before)
        if error.__cause__ is None:
            last.__context__ = bare
        else:
            last.__cause__ = bare
        error, last = before, bare
    return first


def _bare(error: BaseException) -> Exception:
    kind = type(error)
    of_same_name = type(kind.__qualname__, (Exception,), {"__module__": kind.__module__})
    says = (os.strerror(error.errno),) if isinstance(error, OSError) and error.errno else ()
    bare: Exception = of_same_name(*says)
    return bare.with_traceback(error.__traceback__)
