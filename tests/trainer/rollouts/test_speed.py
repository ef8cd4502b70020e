"""Whether bfloat16 is fast here: measured once a machine."""

import json

import pytest
import torch

from advgame.trainer.models import sources
from advgame.trainer.rollouts import speed


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("ADVGAME_CACHE", str(tmp_path))
    speed.bfloat16_pays.cache_clear()
    yield
    speed.bfloat16_pays.cache_clear()


def test_measured_once():
    paid = speed.bfloat16_pays()
    (file,) = sources.cache_folder().glob("products-*/seconds.json")
    seconds = json.loads(file.read_text())
    assert 0 < seconds["bfloat16"] < 1 and 0 < seconds["float32"] < 1 and seconds["processor"]
    assert paid == (seconds["float32"] > speed.PAYS * seconds["bfloat16"])
    before = file.stat().st_mtime_ns
    speed.bfloat16_pays.cache_clear()
    assert speed.bfloat16_pays() == paid and file.stat().st_mtime_ns == before


@pytest.mark.parametrize(("bfloat16", "pays"), [(1.0, False), (0.8, False), (0.7, True), (0.1, True)])
def test_what_pays(monkeypatch, bfloat16, pays):
    monkeypatch.setattr(speed, "_seconds", {torch.float32: 1.0, torch.bfloat16: bfloat16}.get)
    assert speed.bfloat16_pays() == pays
