"""Settings: defaults, YAML, overrides, and what is said when they are wrong."""

import copy
import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.settings.load import load_config, read_stored, resolve_config, shipped_configs, to_yaml
from advgame.trainer.settings.schema import Config, RedTeamConfig, WarmstartConfig, fields


def test_the_defaults_are_the_papers():
    config = Config()
    for player in (config.attacker, config.defender):
        assert (player.loss.name, player.loss.beta, player.ema_decay, player.samples) == ("dpo", 0.1, 0.95, 2)
        assert (player.optimizer.lr, player.optimizer.max_grad_norm) == (1e-6, 1.0)
        assert (player.sampling.temperature, player.sampling.top_p) == (0.6, 0.9)
        assert player.sampling.max_new_tokens == 2048
    assert config.steps_per_batch == 4


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\nattacker:\n  loss: {beta: 0.3, name: ipo}\n")
    config = load_config(str(file), ["attacker.loss.beta=0.5", "defender.optimizer.lr=1e-5"])
    assert (config.steps, config.attacker.loss.beta, config.attacker.loss.name) == (7, 0.5, "ipo")
    assert config.defender.optimizer.lr == 1e-5


def test_later_files_are_laid_over_earlier_ones(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("attacker: {loss: {beta: 0.3}}\n")
    config = load_config(["tiny", "variants/ipo-md", str(file)], ["steps=3"])
    assert (config.steps, config.batch_size, config.attacker.loss.name) == (3, 8, "ipo")
    assert (config.attacker.loss.beta, config.defender.loss.beta) == (0.3, 0.1)
    assert load_config(None, []) == load_config(["demo"], [])


@pytest.mark.parametrize("schema", [Config, WarmstartConfig])
def test_every_setting_is_documented(schema):
    for name, field, _ in fields(schema()):
        assert len(field.metadata["doc"]) > 10, name


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_valid_and_says_what_it_is(name):
    """Variants over every config that is not one."""
    assert resolve_config(name).read_text().startswith("# ")
    if name.startswith("variants/"):
        for base in (base for base in shipped_configs() if not base.startswith("variants/")):
            load_config([base, name], [])
    else:
        load_config(name, [])


PAPER_LOSS = {
    "name": "dpo", "beta": 0.1, "length_normalize": False, "label_smoothing": 0.0, "nll_weight": 0.0,
    "normalization": "length_normalized", "importance_cap": None, "filter_eps": 2e-4,
}  # fmt: skip
PAPER_PLAYER = {
    "train": True, "samples": 2, "ema_decay": 0.95, "reference_decay": None, "sample_from": "ema",
    "reference": "rollout", "min_gap": 0.0, "first_tokens": None, "precision": "auto",
    "judge": "pairwise", "loss": PAPER_LOSS,
    "sampling": {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 2048, "batch_size": 64, "precision": "auto"},
    "lora": {"rank": 0, "alpha": 32.0},
    "optimizer": {
        "lr": 1e-6, "betas": [0.9, 0.95], "weight_decay": 0.1, "warmup_steps": 0, "decay_steps": 0,
        "max_grad_norm": 1.0, "max_loss_ratio": None, "tokens_per_pack": 8192, "checkpoint_activations": True,
    },
}  # fmt: skip
PAPER_JUDGE = {
    "kind": "server", "model": None, "faithfulness": True, "success_score": 5.0, "offset": 0.0, "noise": 0.0,
    "sampling": {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 8192, "batch_size": 64, "precision": "auto"},
}  # fmt: skip


def paper(name: str) -> dict:
    """Every field of a recipe, spelt out."""
    qwen, lora = name.startswith("recipes/qwen"), name.endswith("-lora")
    player = copy.deepcopy(PAPER_PLAYER)
    if lora:
        player["lora"]["rank"], player["sampling"]["batch_size"] = 32, 16
        player["optimizer"] |= {"lr": 1e-5, "tokens_per_pack": 6656}
    model = "models/Qwen2.5-7B-Instruct" if qwen else "models/Llama-3.1-8B-Instruct"
    judge = "Qwen/Qwen2.5-32B-Instruct" if qwen else "huihui-ai/Llama-3.3-70B-Instruct-abliterated"
    server = {"url": "http://127.0.0.1:8000/v1", "model": judge, "api_key_env": "OPENAI_API_KEY", "concurrency": 32}
    attacker = {"model": model if qwen or lora else f"{model}-abliterated"}
    return {
        "output_dir": f"runs/{name.removeprefix('recipes/')}",
        "seed": 0, "steps": 1000, "batch_size": 32, "steps_per_batch": 4, "schedule": "joint", "steps_per_turn": 50,
        "engine": "single" if lora else "zero", "zero": {"stage": 3, "offload": "none" if lora else "idle_player"},
        "attention": "auto", "templates": None,
        "seeds": {"files": ["harmful.jsonl", "benign.jsonl"], "benign_share": 0.5},
        "attacker": player | attacker | {"format": "think_prompt", "reward_from": "best", "learn_from_malformed": True,
                     "learn_from_benign": True},
        "defender": player
        | {"sampling": player["sampling"] | ({"batch_size": 8} if lora and not qwen else {})}  # a large cache
        | {"model": model, "format": "any", "instruction": "", "replay_seeds": False, "condition_on": "prompt"},
        "judge": PAPER_JUDGE | {"server": server | {"timeout": 600.0, "patience": 30.0, "extra": {}}},
        "eval": {"every": 0, "seeds": [], "attacks": [], "wrappings": [], "limit": 64, "greedy": False},
        "checkpoint": {"every": 50, "keep": 2},
        "alarms": {"idle_steps": 10, "stop_when_idle": False, "skipped_steps": 5},
        "report": {"grid_intensity": None},
    }  # fmt: skip


@pytest.mark.parametrize("name", shipped_configs("recipes"))
def test_every_field_of_a_recipe_is_the_papers(name):
    assert dataclasses.asdict(load_config(name, [])) == paper(name)


@pytest.mark.parametrize(("name", "steps"), [("demo", 10), ("tiny", 10), ("trainer/configs/tiny.yaml", 10)])
def test_shipped_configs_load(name, steps, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    assert load_config(name, []).steps == steps


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("attaker.train=false", ["attaker", "attacker"]),
        ("attacker.lr=1", ["attacker.lr", "did you mean attacker.optimizer.lr?"]),
        ("defender.sampling.temprature=1", ["temprature", "temperature"]),
        ("steps=soon", ["steps", "soon"]),
        ("steps=1.5", ["steps", "1.5"]),
        ("steps=null", ["steps", "None"]),
        ("attacker.train=maybe", ["attacker.train", "maybe"]),
        (
            "attacker.format=think_promt",
            ["attacker.format", "think_promt", "did you mean attacker.format=think_prompt"],
        ),
        ("attacker=7", ["7"]),
        ("seeds.files=x.jsonl", ["seeds.files"]),
        ("justaword", ["justaword", "key=value"]),
        ("steps=0", ["steps=0", "at least 1"]),
        ("attacker.sampling.top_p=1.5", ["attacker.sampling.top_p=1.5", "between"]),
        ("attacker.loss.beta=nan", ["attacker.loss.beta=nan", "finite"]),
        ("attacker.loss.beta=1e-25", ["attacker.loss.beta=1e-25", "between 1e-15 and 1e15"]),
        ("defender.loss.nll_weight=1e20", ["defender.loss.nll_weight=1e+20", "between 1e-15 and 1e15"]),
        ("attacker.sampling.temperature=1e-20", ["attacker.sampling.temperature=1e-20", "between 1e-15 and 1e15"]),
        ("attacker.optimizer.lr=inf", ["attacker.optimizer.lr=inf", "finite"]),
        ("attacker.loss.beta=[1,", ["attacker.loss.beta=[1,", "not valid YAML"]),
        ("attacker.loss.beta=${nothing}", ["attacker.loss.beta: Value '${nothing}'"]),
        ("steps=${oc.env:HOME}", ["steps: Value '${oc.env:HOME}'"]),
        ("seeds.files=[[a.jsonl]]", ["seeds.files=[['a.jsonl']]", "single value"]),
        ("seeds.files=[{a:1}]", ["seeds.files", "single value"]),
        ("defender.optimizer.betas=[[0.9],0.95]", ["defender.optimizer.betas=[[0.9], 0.95]", "single value"]),
        ("steps=" + "[" * 5000, ["steps=[[", "recursion"]),
        ("steps=" + "9" * 10_000, ["steps=99", "4300 digits"]),
        ("attacker.loss.beta=1" + "0" * 400, ["command line", "not of the form"]),
        ("steps=???", ["steps: ??? is not a value"]),
        ("output_dir=" + "x" * 256, ["output_dir='xxx", "255 bytes"]),
        ("output_dir=" + "ü" * 128, ["output_dir='üüü", "255 bytes"]),
        ("output_dir=" + "x/" * 2000, ["output_dir='x/x", "3,500"]),
        ('output_dir="a\\0b"', ["output_dir='a\\x00b'", "null byte"]),
        ("steps=", ["steps", "None"]),
        ("seeds.files.0=x.jsonl", ["command line", "files", "x.jsonl"]),
        ("defender.optimizer.betas=[0.9]", ["defender.optimizer.betas", "two numbers"]),
        ("attacker.optimizer.lr=0", ["attacker.optimizer.lr=0", "nothing would be learnt", "attacker.train=false"]),
        ("defender.optimizer.lr=11", ["defender.optimizer.lr=11", "weight_decay=0.1", "lower one of the two"]),
        ("attacker.optimizer.weight_decay=1e9", ["attacker.optimizer.lr=1e-06", "weight_decay=1000000000.0"]),
        ("attacker.optimizer.max_loss_ratio=0.5", ["attacker.optimizer.max_loss_ratio=0.5", "at least 1"]),
        ("steps=5 defender.optimizer.decay_steps=6", ["defender.optimizer.decay_steps=6", "steps=5", "or less"]),
        ("defender.first_tokens=0", ["defender.first_tokens=0", "at least 1"]),
        (
            "defender.loss.name=grpo defender.first_tokens=8",
            ["defender.first_tokens=8", "not grpo", "set it to null"],
        ),
        (
            "attacker.loss.name=grpo attacker.optimizer.max_loss_ratio=5",
            ["attacker.optimizer.max_loss_ratio=5.0", "set it to null"],
        ),
        ("alarms.idle_steps=0", ["alarms.idle_steps=0", "at least 1"]),
        ("batch_size=10", ["steps_per_batch=4", "batch_size=10", "nearest", "5"]),
        ("attacker.samples=1", ["attacker.samples=1", "attacker.train=false"]),
        ("defender.loss.name=ipo defender.loss.label_smoothing=0.1", ["defender.loss.label_smoothing=0.1"]),
        ("attacker.train=false defender.train=false", ["nothing to train"]),
        ("defender.judge=none", ["attacker.reward_from=best", "attacker.reward_from=first"]),
        (
            "attacker.learn_from_malformed=false attacker.judge=none judge.faithfulness=false",
            ["attacker.learn_from_malformed=false", "attacker.judge=none", "judge.faithfulness=false", "same reward"],
        ),
        ("attacker.learn_from_malformed=never", ["attacker.learn_from_malformed", "never"]),
        ("judge.kind=model", ["judge.kind=model", "judge.model"]),
        ("judge.model=here", ["judge.model=here", "kind=model"]),
        ("judge.kind=server", ["judge.kind=server", "judge.server.model"]),
        ("judge.server.model=gpt", ["judge.server.model=gpt", "kind=server"]),
        ("judge.kind=server judge.server.model=gpt judge.model=here", ["judge.model=here", "kind=model"]),
        ("judge.server.concurrency=0", ["judge.server.concurrency=0", "at least 1"]),
        ("judge.server.patience=-1", ["judge.server.patience=-1", "at least 0"]),
        ("judge.server.extra=3", ["judge.server.extra"]),
        ("judge.server.extra.stream=true", ["judge.server.extra.stream", "remove it"]),
        ("judge.server.extra.top_k=.inf", ["judge.server.extra", "JSON"]),
        ("judge.offset=2", ["judge.offset=2", "judge.kind=arena"]),
    ],
)
def test_what_is_wrong_is_named(override, parts, tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}")
    with pytest.raises(ConfigError) as caught:
        load_config(str(empty), override.split())
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_in_the_place_of_a_variables_name_is_not_repeated():
    with pytest.raises(ConfigError, match=r"judge.server.api_key_env: .* never the key itself") as caught:
        load_config("tiny", ["judge.server.api_key_env=sk-hidden"])
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://user:hidden@host/v1", "http://host/v1?key=hidden", "http://host/v1#hidden"])
def test_an_address_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match=r"judge.server.url: .* environment variable") as caught:
        load_config("tiny", [f"judge.server.url={url}"])
    assert "hidden" not in str(caught.value)


def test_extra_fields_of_requests_survive_a_file(tmp_path):
    """They may be nested, and null."""
    extra = ["judge.server.extra.seed=null", "judge.server.extra.chat_template_kwargs.enable_thinking=false"]
    config = load_config("tiny", extra)
    assert config.judge.server.extra == {"seed": None, "chat_template_kwargs": {"enable_thinking": False}}
    (tmp_path / "stored.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "stored.yaml"), []) == config
    assert read_stored(tmp_path / "stored.yaml")["judge"]["server"]["extra"] == config.judge.server.extra


def test_red_teaming_has_settings_of_its_own():
    config = load_config("tiny", ["target.timeout=5"], RedTeamConfig)
    assert config.target.timeout == 5 and config.judge.server.timeout == 120
    with pytest.raises(ConfigError, match=r"did you mean target.patience\?"):
        load_config("tiny", ["target.patiens=5"], RedTeamConfig)
    with pytest.raises(ConfigError, match=r"target.timeout=0.0: must be at least 1"):
        load_config("tiny", ["target.timeout=0"], RedTeamConfig)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file"):
        load_config("x" * 300, [])
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*demo, tiny.*variants/ipo-md"):
        load_config("nowhere.yaml", [])
    broken = tmp_path / "broken.yaml"
    for text, complaint in (
        ("a: [1,\nb: 2", "not valid YAML"),
        ("- steps", "not a mapping"),
        ("steps: 1\nsteps: 2", "steps is given 2 times"),
        ("seeds: &s {files: [a]}\neval: *s", "no aliases"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "no aliases"),
        ("a: &a [*a]", "no aliases"),
        ("[" * 100_000, "recursion"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("seeds: {files: {}}", ""),
    ):
        broken.write_text(text)
        with pytest.raises(ConfigError, match=rf"broken\.yaml.*{complaint}") as caught:
            load_config(str(broken), [])
        assert "\n" not in str(caught.value)


@given(
    st.text(st.sampled_from("${}\\:ab.'\"[]#-|>&*!%@? \n\t1eé")) | st.text(st.characters(exclude_categories=["Cs"])),
)
@example("${oc.env:HOME}")
@example("${x}")
@example("${")
@example("a\\${seed}")
@example("1e-6")
@example("2024-01-01")
@example("\x85")
@example("a\u2028 b")
@example("null")
def test_every_text_survives_config_yaml(text):
    """Nothing is put into it from other settings or from the environment. (`???` is refused.)"""
    assume(text != "???")
    config = Config()
    config.defender.instruction, config.seeds.files = text, [text, "b"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(to_yaml(config), encoding="utf-8")
        assert load_config(str(file), []) == config
        assert read_stored(file) == dataclasses.asdict(config)


def test_the_environment_is_not_read(monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    config = load_config("tiny", ["defender.instruction=${oc.env:SECRET}", "seeds.files=['${oc.env:SECRET}']"])
    assert config.defender.instruction == config.seeds.files[0] == "${oc.env:SECRET}"
    assert "hunter2" not in to_yaml(config)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["zero.offload=optimizer"], "zero.offload=optimizer has no effect with engine=single"),
        (["engine=zero", "zero.stage=0", "zero.offload=optimizer"], "zero.stage=0; set it to 1"),
        (["engine=zero", "zero.stage=2", "zero.offload=idle_player"], "zero.stage=2; set it to 3"),
    ],
)
def test_an_offload_that_cannot_be_done_is_refused(overrides, told):
    with pytest.raises(ConfigError, match=told):
        load_config("tiny", overrides)
