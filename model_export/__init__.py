import os

# Read when NumPy is first imported. OpenBLAS takes every core that it sees, also those that a container may not use or
# that others do: with two threads on two busy cores the export of BERT-base took 65 seconds of CPU and 178 of the clock,
# with one 29 and 71.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
