"""Tells what a body is that should have been JSON."""

import re
from typing import Final

_BEGINNINGS: Final = (
    (rb"\s*\Z", "It is empty. "),
    (rb"\xef\xbb\xbf", "It begins with a byte order mark; leave that out (in Python: utf-8, not utf-8-sig). "),
    (rb"\xff\xfe|\xfe\xff", "It is UTF-16, as PowerShell writes by default. "),
    (rb"\x1f\x8b", "It is compressed by gzip: send Content-Encoding: gzip, too. "),
    (rb"\x28\xb5\x2f\xfd", "It is compressed by zstd: send Content-Encoding: zstd, too. "),
    (rb"\x78[\x01\x5e\x9c\xda]", "It is compressed by deflate: send Content-Encoding: deflate, too. "),
    (rb"--[^\r\n]{1,70}\r?\n(?i:content-)", "It is a multipart form. "),
    (rb"[\w.%+-]{1,64}=", 'It is a form, not an object like {"inputs": ...}. '),
    (rb"\s*[\[{]\s*'", "JSON has double quotes, where Python's str() writes single ones; use json.dumps. "),
    (rb"\s*[\[{]\s*\xe2\x80[\x98-\x9f]", "JSON has straight double quotes, where word processors write curly ones. "),
    (
        rb"\s*{\s*[A-Za-z_]\w*\s*:",
        "JSON has double quotes around keys and texts, which some command lines remove (in PowerShell, read the body from a file). ",
    ),
    (rb"%7[Bb]|%22|%5[Bb]", "It is percent-encoded, as parts of a URL are. "),
    (rb"\s*<", "It is XML or HTML. "),
    (rb"'", "It begins with a single quote, which the command line of Windows hands on; use double quotes there. "),
    (rb"@", "It begins with @; curl reads a file by --data-binary @FILE, without quotes inside. "),
)


def hint_for(body: bytes) -> str:
    """Return what a body is by its first bytes, as a sentence with a space after it, or nothing."""
    return next((hint for beginning, hint in _BEGINNINGS if re.match(beginning, body)), "")
