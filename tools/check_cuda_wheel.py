"""A wheel with CUDA kernels, imported in an empty environment where nothing can be compiled.

    python tools/check_cuda_wheel.py WHEEL --architectures sm_90,sm_90a

Neither a device nor the package's dependencies are needed: the native module and the library are
loaded as they are. Machine code in the library names its architecture.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from check_wheel import path_without_compilers, run

LIBRARY = "icm_fast/libicm_fast_cuda.so"
LOAD = """
import ctypes, pathlib, icm_fast, icm_fast._core
folder = pathlib.Path(icm_fast.__file__).parent
library = ctypes.CDLL(str(folder / "libicm_fast_cuda.so"))
library.icm_fast_cuda_device_type.restype = ctypes.c_char_p
print(library.icm_fast_cuda_abi_version(), library.icm_fast_cuda_device_type().decode(), folder)
"""


def main() -> None:
    """Check one wheel, made for this Python."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--architectures", default="sm_90,sm_90a", help="that it must hold")
    asked = parser.parse_args()
    wanted = set(asked.architectures.split(","))
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(asked.wheel) as packed:
            code = packed.read(LIBRARY)
        found = {name.decode() for name in re.findall(rb"\bsm_\d+[af]?\b", code)}
        if not wanted <= found:
            sys.exit(f"{asked.wheel} has code for {sorted(found)}, not for {sorted(wanted)}")
        home = Path(folder) / "home"
        home.mkdir()
        venv.create(home / "env", with_pip=True)
        python = home / "env" / "bin" / "python"
        variables = {**os.environ, "PATH": path_without_compilers(home / "bin")}
        variables.pop("PYTHONPATH", None)
        install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
        run(python, *install, asked.wheel.resolve(), cwd=home, env=variables)
        abi, device, place = run(python, "-c", LOAD, cwd=home, env=variables).split()
        if device != "cuda" or not place.startswith(str(home)):
            sys.exit(f"{place} is for {device}")
    print(f"{asked.wheel.name}: interface {abi}, code for {', '.join(sorted(found))}, imported")


if __name__ == "__main__":
    main()
