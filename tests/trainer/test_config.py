"""Settings: defaults, YAML, overrides, and what is said when they are wrong."""

import pytest

from advgame.trainer.config import Config, ConfigError, fields, load_config, resolve_config, shipped_configs


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


def test_every_setting_is_documented():
    for name, field, _ in fields(Config()):
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


@pytest.mark.parametrize("name", shipped_configs("recipes"))
def test_the_recipes_numbers_are_the_papers(name):
    config, lora = load_config(name, []), name.endswith("-lora")
    assert (config.steps, config.batch_size, config.steps_per_batch, config.schedule) == (1000, 32, 4, "joint")
    for player in (config.attacker, config.defender):
        assert (player.loss.name, player.loss.beta, player.ema_decay, player.samples) == ("dpo", 0.1, 0.95, 2)
        assert (player.sample_from, player.reference, player.judge) == ("ema", "rollout", "pairwise")
        assert (player.optimizer.lr, player.optimizer.max_grad_norm) == (1e-5 if lora else 1e-6, 1.0)
        assert (player.optimizer.betas, player.optimizer.weight_decay) == ([0.9, 0.95], 0.1)
        assert player.optimizer.tokens_per_pack >= 3 * 2048 + 256
        assert (player.lora.rank > 0) == lora
    for sampling, tokens in ((config.attacker, 2048), (config.defender, 2048), (config.judge, 8192)):
        assert vars(sampling.sampling) | {"batch_size": 0} == {
            "temperature": 0.6, "top_p": 0.9, "max_new_tokens": tokens, "batch_size": 0
        }  # fmt: skip
    assert (config.attacker.format, config.attacker.reward_from) == ("think_prompt", "best")
    assert (config.defender.format, config.defender.condition_on) == ("any", "prompt")
    assert (config.judge.kind, config.judge.faithfulness) == ("server", True)


@pytest.mark.parametrize("name", ["demo", "tiny", "trainer/configs/tiny.yaml"])
def test_shipped_configs_load(name, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    assert load_config(name, []).steps == 10


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
        ("attacker.loss.beta=nan", ["attacker.loss.beta=nan"]),
        ("defender.optimizer.betas=[0.9]", ["defender.optimizer.betas", "two numbers"]),
        ("batch_size=10", ["steps_per_batch=4", "batch_size=10", "nearest", "5"]),
        ("attacker.samples=1", ["attacker.samples=1", "attacker.train=false"]),
        ("defender.loss.name=ipo defender.loss.label_smoothing=0.1", ["defender.loss.label_smoothing=0.1"]),
        ("attacker.train=false defender.train=false", ["nothing to train"]),
        ("defender.judge=none", ["attacker.reward_from=best", "attacker.reward_from=first"]),
        ("judge.kind=model", ["judge.kind=model", "judge.model"]),
        ("judge.model=here", ["judge.model=here", "kind=model"]),
        ("judge.kind=server", ["judge.kind=server", "judge.server.model"]),
        ("judge.server.model=gpt", ["judge.server.model=gpt", "kind=server"]),
        ("judge.kind=server judge.server.model=gpt judge.model=here", ["judge.model=here", "kind=model"]),
        ("judge.server.concurrency=0", ["judge.server.concurrency=0", "at least 1"]),
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


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*demo, tiny.*variants/ipo-md"):
        load_config("nowhere.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(str(broken), [])
