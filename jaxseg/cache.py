"""Where the package keeps what it can make again: converted weights and compiled programs."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """$JAXSEG_CACHE, else jaxseg in the user's cache folder."""
    if chosen := os.environ.get("JAXSEG_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxseg"
