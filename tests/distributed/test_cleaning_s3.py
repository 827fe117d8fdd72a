"""Cleaning on an object store."""

from __future__ import annotations

import pytest

from bo_distill.distributed import locks
from bo_distill.distributed.cache import StageCache, encode
from bo_distill.distributed.locks import Lock
from bo_distill.distributed.storage import Storage
from bo_distill.methods.method import State
from bo_distill.search.study import cleaning


def test_a_bucket_is_cleaned(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.3)
    storage = Storage(bucket)
    cache = StageCache(storage)
    for key in ("free", "held"):
        with cache.lock("fsp.teacher", key):
            cache.put("fsp.teacher", key, encode(State({})))
    cache.checkpoints("fsp.teacher", "free", Lock()).save("0", b"epochs")
    assert list(cleaning.clean(storage)) and storage.exists("stages/fsp.teacher-free.pt"), "its checkpoint is fresh"
    monkeypatch.setattr(cleaning, "FRESH", 0.0)
    cache.put("fsp.teacher", "held", encode(State({})))
    with cache.lock("fsp.teacher", "held"):
        removed = [removal.name for removal in cleaning.clean(storage)]
        assert removed == [
            f"stages/{x}" for x in ("fsp.teacher-free.pt", "fsp.teacher-free.progress", ".fsp.teacher-free.lock")
        ]
    assert {e.name for e in storage.entries("stages") if not e.is_folder} == {
        "stages/.fsp.teacher-held.lock", "stages/fsp.teacher-held.pt",
    }  # fmt: skip
    list(cleaning.clean(storage))
    assert [e.name for e in storage.entries("stages") if not e.is_folder] == []
    with cache.lock("fsp.teacher", "free"):
        assert not cache.holds("fsp.teacher", "free")
