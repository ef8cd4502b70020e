"""What the recipes say of themselves is what `advgame estimate` says of them."""

import re

import pytest

from advgame.trainer.commands.main import main
from advgame.trainer.settings.load import CONFIGS, shipped_configs


@pytest.mark.parametrize("recipe", shipped_configs("recipes"))
def test_the_table_in_the_head_is_what_estimate_prints(recipe, capsys):
    text = (CONFIGS / f"{recipe}.yaml").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"^#   advgame (estimate .*)$", text, re.MULTILINE)
    assert f"--config {recipe}" in arguments
    assert main(arguments.split()) == 0
    printed = "\n".join(f"# {line}".rstrip() for line in capsys.readouterr().out.splitlines())
    assert f"#\n{printed}\noutput_dir:" in text, printed
