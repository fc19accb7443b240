"""Every test starts from DSPy's own settings, without cache, network, keys or leftovers."""

import atexit
import copy
import gc
import os
import re
import shutil
import tempfile
from collections.abc import Iterator

# Before DSPy is imported: its metadata would be fetched from the network, its cache lies in the user's home.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["DSPY_CACHEDIR"] = tempfile.mkdtemp(prefix="moa-dspy-tests-")

import dspy
import pytest
from dspy.clients.cache import Cache
from dspy.dsp.utils.settings import DEFAULT_CONFIG, main_thread_config
from support.misuse import strict_fakes as strict_fakes

gc.disable()  # while test modules import what stays: see pytest_collection_finish()
atexit.register(shutil.rmtree, os.environ["DSPY_CACHEDIR"], ignore_errors=True)


def pytest_report_header() -> str:
    return "moa-dspy: the whole suite takes about three minutes on two cores (-n 0 for one process, -m slow for sweeps)"


def pytest_collection_finish() -> None:
    """Let no collection look through all that was imported: it takes a sixth of the suite's time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def fresh_dspy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test configures, and take the keys that the machine may hold away from it."""
    for name in list(os.environ):
        if re.search(r"_API_KEY$|_TOKEN$|_SECRET", name):
            monkeypatch.delenv(name)
    monkeypatch.setattr(dspy, "cache", _cache(memory=False))
    yield
    main_thread_config.clear()
    main_thread_config.update(copy.deepcopy(DEFAULT_CONFIG))


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of DSPy's, in memory."""
    monkeypatch.setattr(dspy, "cache", _cache(memory=True))


def _cache(memory: bool) -> Cache:
    return Cache(enable_disk_cache=False, enable_memory_cache=memory, disk_cache_dir=None)
