"""What all tests share: one compilation cache for the session."""

from __future__ import annotations

import os

import hypothesis
import pytest

# a machine that is busy is not a failure; a test that passes passes always
hypothesis.settings.register_profile(
    "surefoot",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("surefoot")

# before JAX is imported: programs of equal shape are compiled once for the whole session
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import jax

    # next to the session's temporary folder, so that parallel workers share it
    folder = tmp_path_factory.getbasetemp().parent / "jax-cache"
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        # no bound: JAX then keeps no times beside the programs, and a process with a bound, as the
        # command sets one, could not store a program among those without
        "jax_compilation_cache_max_size": -1,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for commands in processes of their own
