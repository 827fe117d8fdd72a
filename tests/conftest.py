"""What pytest finds for every test: a storage, and the same examples every time."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from bo_distill.distributed.storage import Storage

torch.set_num_threads(1)
# A shell that starts the tests in the background has Ctrl-C ignored, and nohup SIGHUP; searches would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The same examples every time: a test that fails tells of the change. `--hypothesis-profile=default` draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "results")
