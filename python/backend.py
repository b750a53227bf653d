"""maturin's hooks, with an nvcc: `NVCC`, the one in PATH, or the build requirement's."""

import importlib.util
import os
import shutil
from pathlib import Path

from maturin import *  # noqa: F403
import maturin


def _find_nvcc():
    if os.environ.get("NVCC") or shutil.which("nvcc"):
        return
    spec = importlib.util.find_spec("nvidia.cu13")
    for folder in spec.submodule_search_locations if spec else []:
        nvcc = Path(folder) / "bin" / "nvcc"
        if nvcc.exists():
            os.environ["NVCC"] = str(nvcc)
            return


def build_wheel(*args, **kwargs):
    _find_nvcc()
    return maturin.build_wheel(*args, **kwargs)


def build_editable(*args, **kwargs):
    _find_nvcc()
    return maturin.build_editable(*args, **kwargs)
