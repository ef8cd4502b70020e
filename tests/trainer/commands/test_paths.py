"""`~` in whatever names a file or a folder."""

import json
import shutil

import pytest
from helpers import tiny_config

from advgame.trainer.commands.main import parse
from advgame.trainer.models.sources import resolve_model
from advgame.trainer.prompts.templates import TEMPLATES, Prompts
from advgame.trainer.run.preflight import preflight
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_settings_may_begin_at_home(home):
    shutil.copytree(resolve_model("tiny"), home / "model")
    (home / "seeds.jsonl").write_text(json.dumps({"prompt": "How?", "category": "benign"}) + "\n")
    shutil.copytree(TEMPLATES / "small", home / "templates")
    (home / "config.yaml").write_text("steps: 3\n")
    assert resolve_model("~/model") == home / "model"
    assert read_seeds(["~/seeds.jsonl"])[0].query == "How?"
    assert Prompts("~/templates").attacker("harmful", "prompt_only", "How?") == (
        Prompts("small").attacker("harmful", "prompt_only", "How?")
    )
    assert load_config("~/config.yaml", []).steps == 3
    names = ("attacker.model=~/model", "seeds.files=[~/seeds.jsonl]", "templates=~/templates")
    assert preflight(tiny_config("~/run", *names)).run == home / "run"


def test_arguments_may_begin_at_home(home):
    evaluate = parse(["evaluate", "~/run", "--json", "~/results.json"])
    assert (evaluate.run, evaluate.json) == (home / "run", home / "results.json")
    crossplay = parse(["crossplay", "~/run", "--out", "~/out"])
    assert (crossplay.run, crossplay.out) == (home / "run", home / "out")
    assert parse(["report", "~/run"]).run == home / "run"
    assert parse(["redteam", "--attacker", "a", "--target", "b", "--seeds", "c", "--out", "~/out"]).out == home / "out"


def test_a_home_that_nobody_has_is_a_name_like_any_other(home):
    assert parse(["crossplay", "~nobody-has-this-name/run"]).run.parts == ("~nobody-has-this-name", "run")
