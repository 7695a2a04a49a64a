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
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # for commands in processes of their own
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
