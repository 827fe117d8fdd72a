"""Where things that take long to make, or come from the network, are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def directory() -> Path:
    """`search-methods` in the user's cache directory (XDG_CACHE_HOME, else ~/.cache). It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "search-methods"
