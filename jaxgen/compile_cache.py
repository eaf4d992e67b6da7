"""Compiled programs are kept on disk: the next process loads in a second what took a minute to compile."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = "jax_compilation_cache_dir"
THRESHOLDS = {  # keep everything: many programs that compile within a second cost seconds together
    "jax_persistent_cache_min_compile_time_secs": (1.0, 0.0),
    "jax_persistent_cache_min_entry_size_bytes": (0, -1),
}  # {option: (JAX's default, ours)}


def enable() -> None:
    """Keep compiled programs in $JAXGEN_CACHE/compiled, by default ~/.cache/jaxgen/compiled.

    What the user has set stays: another folder, its thresholds, or no cache (JAX_ENABLE_COMPILATION_CACHE=0). JAX is
    not imported; where it is not yet, it finds its settings in the environment.
    """
    cache = os.environ.get("JAXGEN_CACHE") or Path.home() / ".cache" / "jaxgen"
    folder = str(Path(cache) / "compiled")
    jax = sys.modules.get("jax")
    if jax is None:
        if FOLDER.upper() not in os.environ:
            os.environ[FOLDER.upper()] = folder
            for option, (_, ours) in THRESHOLDS.items():
                os.environ.setdefault(option.upper(), str(ours))
    elif FOLDER.upper() not in os.environ and jax.config.jax_compilation_cache_dir is None:
        jax.config.update(FOLDER, folder)
        for option, (default, ours) in THRESHOLDS.items():
            if getattr(jax.config, option) == default and option.upper() not in os.environ:
                jax.config.update(option, ours)
