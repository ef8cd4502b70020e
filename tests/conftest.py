"""Shared by all tests: a cache of their own, one thread, no network, no deadlines."""

import os

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("untimed", deadline=None)  # how fast an example runs is the machine's affair
hypothesis.settings.load_profile("untimed")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # its kernels run on numpy


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Models are built and converted afresh, once a session."""
    os.environ["ADVGAME_CACHE"] = str(tmp_path_factory.mktemp("cache"))
