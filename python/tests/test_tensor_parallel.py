"""tensor_parallel.py under torchrun: two processes, on two GPUs where there are two, else on the CPU."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch
import transformers

SCRIPT = pathlib.Path(__file__).with_name("tensor_parallel.py")


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="tp_plan on the CPU came with transformers 5")
def test_two_processes_are_one_model(tmp_path):
    hidden = {} if torch.cuda.device_count() >= 2 else {"CUDA_VISIBLE_DEVICES": ""}
    # One thread a process: two share this machine.
    environment = os.environ | hidden | {"CONDENSED_ROPE_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    reports = [(tmp_path / f"tensor_parallel.{rank}").read_text() for rank in (0, 1)]
    assert ran.returncode == 0, "\n".join((*reports, ran.stderr[-3000:]))
    assert all(report.strip().endswith("ok") and report.count("bits equal") == 2 for report in reports), reports
