"""advgame estimate, as it is typed."""

import json

import pytest

from advgame.trainer.commands.main import main

WHOLE = ["estimate", "--config", "recipes/qwen2.5-7b", "--gpus", "8", "engine=single", "zero.offload=none"]


def test_what_it_prints_and_writes_agree(tmp_path, capsys):
    file = tmp_path / "out" / "estimate.json"
    assert main([*WHOLE, "--json", str(file)]) == 0
    printed, record = capsys.readouterr().out, json.loads(file.read_text())
    assert "Predicted from shapes, not measured: 8 x h100-80, engine single" in printed
    assert f"peak {record['peak'] / 1e9:.1f} GB" in printed and "does not fit" in printed
    assert not record["fits"]
    assert {"gpus": 8, "engine": "zero", "zero.offload": "idle_player"} in record["would_fit"]
    assert "would fit: engine=zero zero.offload=idle_player\n" in printed


def test_what_would_fit_does(capsys):
    """Its own advice, followed."""
    main(WHOLE)
    advice = [line.split(": ")[1].split() for line in capsys.readouterr().out.splitlines() if "would fit:" in line]
    assert advice
    for settings in advice:
        assert main([*WHOLE, *settings]) == 0
        assert ": fits" in capsys.readouterr().out


def test_a_processor_has_memory_but_no_time(capsys):
    assert main(["estimate", "--config", "tiny", "--card", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert ": fits" in printed and "No time is predicted" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--card", "h100"], "--card h100: unknown; one of a100-40"),
        (["--gpus", "0"], "--gpus 0: must be between 1 and"),
        (["--efficiency", "1.5"], "--efficiency 1.5: a share"),
        (["--efficiency", "nan"], "--efficiency nan: a share"),
        (["--tokens", "0"], "--tokens 0: must be at least 1"),
        (["attacker.model=models/unheard"], "attacker.model: model models/unheard: neither"),
        (["zero.stage=4"], "zero.stage"),
        (["engine=fsdp"], "engine"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message, capsys):
    assert main(["estimate", "--config", "recipes/qwen2.5-7b", *arguments]) == 2
    assert message in capsys.readouterr().err
