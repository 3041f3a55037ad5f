"""Build the stand-ins for NVIDIA's libraries and lay them where the `nvidia-*` wheels have the real ones.

    python tests/cuda/simulator/build.py

ONNX Runtime then finds them as on a machine with a GPU. Prints the folder: the driver's libraries are there too, and
LD_LIBRARY_PATH must name it. Needs `requirements/cuda-test.txt`, which has a compiler and CUDA's headers.
"""

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
CUDA: Final = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13"
RUNTIME: Final = "libcudart.so.13"
LIBRARIES: Final = {
    RUNTIME: ("cudart.cpp", "cudart_unused.cpp", "kernels.cpp", "attention.cpp"),
    "libcublas.so.13": ("cublas.cpp",),
    "libcublasLt.so.13": ("cublaslt.cpp",),
    "libcurand.so.10": ("curand.cpp",),
    "libcuda.so.1": ("driver.cpp",),
    "libnvidia-ml.so.1": ("nvml.cpp",),
}
# Sums may be taken in any order, so that loops become vectors; NaN stays NaN, which marks memory that nobody wrote.
FLAGS: Final = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"),
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", "-fno-sanitize=undefined"),
)


def build(folder: Path) -> None:
    """Compile every library into a folder, unless they are there and nothing has changed."""
    built_from, sources = folder / "simulated-from", _hash()
    if built_from.exists() and built_from.read_text() == sources:
        return
    built_from.unlink(missing_ok=True)
    for library in LIBRARIES:
        _compile(library, folder)
    built_from.write_text(sources)


def _compile(library: str, folder: Path) -> None:
    # Symbols carry the name of their library as their version, as NVIDIA's do: the loader asks for it.
    versions = folder / f"{library}.map"
    versions.write_text(f"{library} {{ global: *; }};\n")
    linked = () if library == RUNTIME else (str(folder / RUNTIME),)
    command = (
        *(sys.executable, "-m", "ziglang", "c++", *FLAGS, f"-I{CUDA / 'include'}", f"-I{HERE}"),
        *(str(HERE / source) for source in LIBRARIES[library]),
        *linked,
        *(
            "-o",
            str(folder / library),
            f"-Wl,-soname,{library}",
            f"-Wl,--version-script={versions}",
            "-Wl,-rpath,$ORIGIN",
        ),
    )
    cache = str(folder / "zig-cache")
    subprocess.run(command, check=True, env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache})
    versions.unlink()


def _hash() -> str:
    files = sorted(file for file in HERE.iterdir() if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


if __name__ == "__main__":
    build(CUDA / "lib")
    sys.stdout.write(f"{CUDA / 'lib'}\n")
