"""The command line: one parser and one handler of errors for all commands."""

import json
import subprocess
import sys

import pytest

from advgame.trainer.commands.main import COMMANDS, main, make_parser, parse
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config, WarmstartConfig, fields


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert list(COMMANDS) == ["train", "warmstart", "estimate", "evaluate", "average", "crossplay", "report", "redteam"]
    assert " ".join(shown.split()) == " ".join(make_parser().format_help().split())
    for name, command in COMMANDS.items():
        assert name in shown and " ".join(command.HELP.split()) in " ".join(shown.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_takes_settings(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert shown.startswith(f"usage: advgame {command} ") and "key=value" in shown


def test_the_help_of_train_has_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, field, _ in fields(Config()):
        assert f" {name} = " in shown and " ".join(field.metadata["doc"].split()) in shown, name
    for line in (
        "judge.model = null (str | None)",
        "attacker.train = true (bool)",
        "seeds.files = ['harmful.jsonl', 'benign.jsonl'] (list[str])",
        "judge.kind = phrases (phrases|model|server|arena)",
    ):
        assert line in shown


def test_the_help_of_warmstart_has_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["warmstart", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, field, _ in fields(WarmstartConfig()):
        assert f" {name} = " in shown and " ".join(field.metadata["doc"].split()) in shown, name
    assert "player = defender (attacker|defender)" in shown
    assert "optimizer.lr = 0.0001 (float)" in shown  # its own default, not the game's


def test_help_needs_no_library_that_is_slow_to_import():
    code = "import sys\nfrom advgame.trainer.commands.main import make_parser\nmake_parser().format_help()\n"
    code += "print(sorted({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["steps=3", "--config", "tiny", "attacker.loss.beta=0.2", "--print-config", "output_dir=a=b"],
        ["--config", "tiny", "--print-config", "steps=3", "attacker.loss.beta=0.2", "output_dir=a=b"],
        ["--print-config", "steps=3", "attacker.loss.beta=0.2", "--config", "tiny", "output_dir=a=b"],
    ],
)
def test_settings_may_be_anywhere(arguments, capsys, tmp_path):
    assert main(["train", *arguments]) == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    wanted = load_config("tiny", ["steps=3", "attacker.loss.beta=0.2", "output_dir=a=b"])
    assert load_config(str(file), []) == wanted


def test_settings_are_not_taken_for_values_of_an_option():
    given = [
        "redteam",
        "--attacker",
        "a",
        "--seeds",
        "x.jsonl",
        "y.jsonl",
        "judge.kind=phrases",
        "--target",
        "http://h/?q=1",
    ]
    options = parse([*given, "seeds.files.0=x"])
    assert options.overrides == ["judge.kind=phrases", "seeds.files.0=x"]
    assert (options.seeds, options.target) == (["x.jsonl", "y.jsonl"], "http://h/?q=1")


@pytest.mark.parametrize("arguments", [[], ["evaluate"], ["evaluate", "run", "--step", "5", "justaword"], ["nothing"]])
def test_the_command_explains_itself(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2 and "usage: advgame" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "attacker.lr=1"], "did you mean attacker.optimizer.lr?"),
        (["train", "justaword"], "'justaword': expected key=value"),
        (["evaluate", "nowhere"], "nowhere: not a run's folder"),
        (["crossplay", "nowhere"], "nowhere: not a run"),
        (["report", "nowhere"], "nowhere: not a run's folder"),
        (["redteam", "--attacker", "a", "--target", "b", "--seeds", "c"], "--attacker a: not in a run's checkpoints"),
    ],
)
def test_an_error_is_a_line_and_exit_code_2(arguments, complaint, capsys, monkeypatch, tmp_path):
    report = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and complaint in error
    told = json.loads(report.read_text())["message"]
    assert told["message"] == told["extraInfo"]["py_callstack"] == error.strip()


def test_only_the_first_process_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "steps=soon"]) == 2
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert main(["train", "--print-config"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_is_exit_code_130(capsys, monkeypatch):
    def interrupted(options) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["crossplay"], "run", interrupted)
    assert main(["crossplay", "run"]) == 130
    assert capsys.readouterr().err == ""
