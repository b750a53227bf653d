"""maturin's hooks. The kernels are the compiled ones of `cargo xtask package` where they are there; else `NVCC`'s, or those of an
nvcc in PATH, into which the build requirement's comes last."""

import importlib.util
import os
from pathlib import Path

from maturin import *  # noqa: F403
import maturin


def _add_nvcc():
    try:
        spec = importlib.util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:  # no package of NVIDIA's at all
        spec = None
    folders = spec.submodule_search_locations if spec else []
    paths = [os.environ.get("PATH"), *(str(Path(folder) / "bin") for folder in folders)]
    # An empty entry would be the current folder.
    os.environ["PATH"] = os.pathsep.join(path for path in paths if path)


def build_wheel(*args, **kwargs):
    _add_nvcc()
    return maturin.build_wheel(*args, **kwargs)


def build_editable(*args, **kwargs):
    _add_nvcc()
    return maturin.build_editable(*args, **kwargs)
