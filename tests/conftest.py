"""What all tests share: one compilation cache for the session."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from pathlib import Path
from typing import Any

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

# what is started in a shell's background ignores Ctrl-C, and so would the commands that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

# tracing makes objects by the million, of which few are garbage; JAX looks for its own at each collection
gc.set_threshold(100_000, 50, 50)
# but compiled programs that are garbage keep parts of memory mapped, of which Linux grants a process
# 65,530: with none left, LLVM ends the process
MANY_MAPPINGS = 10_000


def pytest_runtest_logfinish() -> None:
    """Programs that no test uses any more go before there are too many."""
    if mappings() > MANY_MAPPINGS:
        gc.collect()
    if mappings() > MANY_MAPPINGS:  # still in use, by caches
        import jax

        jax.clear_caches()
        gc.collect()


def mappings() -> int:
    """Parts of memory that this process has mapped; 0 where the system does not say."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a browser is extended: it need not be there."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.extended)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import jax
    from jax._src import lru_cache

    # all files of the folder are looked at whenever one is added, for the sake of its bound
    lru_cache.LRUCache._evict_if_needed = lambda self, *, additional_size=0: None

    # next to the session's temporary folder, so that parallel workers share it
    folder = tmp_path_factory.getbasetemp().parent / "jax-cache"
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        # a bound, as the command sets one, so that JAX locks the folder: without, a program that one
        # process writes is read half by another, which aborts
        "jax_compilation_cache_max_size": 8 * 2**30,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for commands in processes of their own


@pytest.fixture(scope="module")
def browser() -> Any:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    options += ["--disable-component-update", "--no-first-run", "--disable-quic"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()
