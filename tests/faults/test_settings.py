"""Settings that make no sense: refused by name before any work."""

import pytest
from faults.commands import FINE, REFUSED, explore, refusal
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.settings.schema import Config, fields

pytestmark = pytest.mark.timeout(30)
LONG = "x" * 300

WRONG = [
    *(f"steps={value}" for value in ("0", "-1", "1.5", "nan", "ten", "[1]", "[[1]]", "{}", "null", "", "true", "1e3x")),
    *(f"seed={value}" for value in ("-1", "0.5", "inf", "null", "01x")),
    *(f"batch_size={value}" for value in ("0", "-8", "3", "1.0e1", "[8]")),
    *(f"steps_per_batch={value}" for value in ("0", "3", "16")),
    *(f"attacker.loss.beta={value}" for value in ("0", "-1", "nan", "inf", "-inf", "1e400", "one", "[0.1]")),
    *(f"defender.loss.nll_weight={value}" for value in ("-1", "nan", "inf", ".inf", "-.1")),
    *(f"attacker.optimizer.lr={value}" for value in ("-1", "nan", "inf", "null", "1e999")),
    *(f"attacker.optimizer.betas={value}" for value in ("[]", "[0.9]", "[0.9,1.0]", "[-1,0.9]", "[nan,0.9]", "0.9",
                                                         "[[0.9,0.95]]", "[0.9,0.95,0.99]", "[null,0.9]", "{a:1}")),
    *(f"defender.sampling.temperature={value}" for value in ("-1", "nan", "inf", "11", "hot", "[1]")),
    *(f"defender.sampling.top_p={value}" for value in ("0", "1.1", "nan", "-0.5", "1e-9")),
    *(f"attacker.sampling.max_new_tokens={value}" for value in ("0", "-1", "99999", "1e30", "1.5")),
    *(f"attacker.samples={value}" for value in ("0", "1", "-2", "nan")),
    *(f"attacker.ema_decay={value}" for value in ("-0.1", "1.1", "nan")),
    *(f"attacker.min_gap={value}" for value in ("-1", "nan", "inf")),
    *(f"attacker.format={value}" for value in ("promt_only", "", "null", "[any_prompt]", "ANY_PROMPT", LONG)),
    *(f"judge.kind={value}" for value in ("model", "server", "arena", "oracle", "null", "[phrases]")),
    *(f"seeds.files={value}" for value in ("[]", "[nowhere.jsonl]", "nowhere.jsonl", "[[tiny.jsonl]]", "null", "{}",
                                            f"[{LONG}.jsonl]", "[/]", "['']", "[tiny.jsonl,[tiny.jsonl]]")),
    *(f"attacker.model={value}" for value in ("nowhere", "''", "null", "/", "/dev/null", "[tiny]", LONG, "..")),
    *(f"templates={value}" for value in ("nowhere", "/", "[small]", LONG, "/dev/null")),
    *(f"output_dir={value}" for value in ("/dev/null/x", "/proc/x", "/dev/null", LONG, "null", "[runs]")),
    *(f"eval.seeds={value} eval.every=1" for value in ("[[tiny.jsonl]]", "[nowhere]", "null")),
    *(f"judge.success_score={value}" for value in ("11", "-1", "nan", "five")),
    *(f"checkpoint.every={value}" for value in ("0", "-1", "nan", "null")),
    *(f"attacker.lora.rank={value}" for value in ("-1", "x", "1.5")),
    *(f"attention={value}" for value in ("fa9", "null", "[]")),
    "attacker=3", "attacker=[1]", "attacker=null", "judge=rules", "seeds=[tiny.jsonl]", "checkpoint=[]",
    "atacker.format=any_prompt", "attacker.fromat=any_prompt", "nothing=1", "steps.x=1", "attacker..model=tiny",
    "attacker.train=maybe", "attacker.train=[]",
    "attacker.model=${oc.env:SECRET,x}",
    "judge.model=tiny", "judge.noise=1", "judge.server.model=gpt",
    "eval.every=1", "eval.every=-1",
]  # fmt: skip

PLAIN = ["defender.instruction=${oc.env:SECRET}", "defender.instruction=${steps}", "defender.instruction=${",
         "defender.instruction=\\${x}", "output_dir=${oc.env:SECRET}", "output_dir=~/${nowhere}"]  # fmt: skip
"""Text that other tools would put something else in the place of."""

ODD = [
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "[]",
    "{}",
    "null",
    "''",
    "[[1]]",
    "[null]",
    "true",
    "x",
    "${x}",
    "0x10",
]
SCALARS = [name for name, field, value in fields(Config()) if name not in ("steps", "output_dir")]


def play(capsys, folder, *settings):
    return refusal(capsys, "train", "--config", "tiny", "steps=1", f"output_dir={folder}", *settings)


def names(line: str, setting: str) -> bool:
    """Whether an error names the setting, or the section that it is in."""
    name = setting.partition("=")[0]
    return name.split(".")[0] in line or name.rsplit(".", 1)[-1] in line


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What is taken for a path does no harm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SECRET", "hunter2")


@pytest.mark.parametrize("setting", WRONG, ids=lambda setting: setting[:40].replace("/", "|"))
def test_a_wrong_setting_is_refused_by_name(setting, tmp_path, capsys, fault):
    line = play(capsys, tmp_path / "run", *setting.split(" "))
    assert line and names(line, setting) and "hunter2" not in line and len(line) < 800, line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    fault("input", "settings", REFUSED)


@pytest.mark.parametrize("setting", PLAIN)
def test_text_is_taken_as_it_is_written(setting, tmp_path, capsys, fault):
    assert play(capsys, tmp_path / "run", setting) is None
    stored = [path.read_text() for path in tmp_path.rglob("config.yaml")]
    assert stored
    for text in stored:
        assert "hunter2" not in text and setting.partition("=")[2].removeprefix("~/") in text
    fault("input", "settings", "taken as it is written")


@pytest.mark.timeout(600)
def test_any_setting_with_any_odd_value(tmp_path, capsys, fault, times, seed):
    folders = iter(range(10**6))

    @explore(seed, times(10, 100))
    @given(st.sampled_from(SCALARS), st.sampled_from(ODD))
    def try_one(name, value):
        line = play(capsys, tmp_path / str(next(folders)), f"{name}={value}")
        assert line is None or names(line, name), line
        fault("input", "settings, generated", FINE if line is None else REFUSED)

    try_one()
