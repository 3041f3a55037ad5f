"""`python -m app` on a system whose files may have 100 kB: writing more fails as on a disk that is full."""

import resource
import runpy

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    runpy.run_module("app", run_name="__main__")
