"""Counting a network's cost says nothing on the terminal."""

from __future__ import annotations

import subprocess
import sys

COUNT = """
import warnings
warnings.simplefilter("error", FutureWarning)
from torch import nn
from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Info
info = Info("tiny", "image", ("a", "b"), (3, 4, 4), "tiny", 1, 1, 1)
print(count(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), info).macs)
"""


def test_counting_says_nothing_of_its_own() -> None:
    """In a process that has not imported fvcore yet: torch warns when it is."""
    found = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert found.stdout == "96\n" and found.stderr == ""
