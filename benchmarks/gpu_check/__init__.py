"""Whether the CUDA path is right and how fast it is: `python -m benchmarks.gpu_check`, `make gpu-check`."""
