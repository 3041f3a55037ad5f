"""BERT inference service: HTTP in, packed ONNX Runtime batches inside.

`docs/architecture.md` follows a request through these modules.
"""

import sys
import time
from typing import Final

__version__ = "0.1.0"
BEGAN_AT: Final = time.perf_counter()
"""When this process began to import the service, by `time.perf_counter`."""

if sys.version_info < (3, 11):  # noqa: UP036 - nothing else says so where the packages are not installed by pip
    sys.exit("error: this needs Python 3.11 or newer, and {} is {}.{}".format(sys.executable, *sys.version_info))
