"""Which dtype matrices are multiplied in, and whether bfloat16 is fast here: measured once a machine."""

import functools
import json

import pytest
import torch

from advgame.trainer.models import precision, sources


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("ADVGAME_CACHE", str(tmp_path))
    precision.bfloat16_pays.cache_clear()
    yield
    precision.bfloat16_pays.cache_clear()


def test_measured_once():
    paid = precision.bfloat16_pays()
    (file,) = sources.cache_folder().glob("products-*/seconds.json")
    seconds = json.loads(file.read_text())
    assert 0 < seconds["bfloat16"] < 1 and 0 < seconds["float32"] < 1 and seconds["processor"]
    assert paid == (seconds["float32"] > precision.PAYS * seconds["bfloat16"])
    before = file.stat().st_mtime_ns
    precision.bfloat16_pays.cache_clear()
    assert precision.bfloat16_pays() == paid and file.stat().st_mtime_ns == before


@pytest.mark.parametrize(("bfloat16", "pays"), [(1.0, False), (0.8, False), (0.7, True), (0.1, True)])
def test_what_pays(monkeypatch, bfloat16, pays):
    monkeypatch.setattr(precision, "_seconds", {torch.float32: 1.0, torch.bfloat16: bfloat16}.get)
    assert precision.bfloat16_pays() == pays


@pytest.mark.parametrize("pays", [False, True])
def test_the_dtype_of_products(monkeypatch, pays):
    monkeypatch.setattr(precision, "bfloat16_pays", functools.cache(lambda: pays))
    expected = {
        ("auto", 256, False): torch.bfloat16 if pays else torch.float32,
        ("auto", 255, False): torch.float32,
        ("auto", 64, True): torch.bfloat16,
        ("float32", 4096, False): torch.float32,
        ("bfloat16", 64, False): torch.bfloat16,
    }
    assert {case: precision.dtype_of_products(*case) for case in expected} == expected
