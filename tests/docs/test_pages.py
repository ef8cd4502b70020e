"""What the documentation says can be typed, clicked or opened is so: commands, configs, settings, links, paths."""

import argparse
import ast
import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from torch.distributed.run import get_args_parser

from advgame.trainer.commands.main import make_parser
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config, load_warmstart
from advgame.trainer.settings.schema import WarmstartConfig
from advgame.trainer.warmstart.material import read_pairs
from advgame.trainer.wrappings import read_wrappings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OPTIONAL = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.optional-dependencies]")[2]
EXTRAS = set(re.findall(r"^([a-z]+) = \[", OPTIONAL.partition("\n[")[0], re.MULTILINE))
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)
FILES = {"html", "json", "jsonl", "md", "png", "py", "toml", "txt", "yaml"}
MADE_BY_RUNS = {"runs", "build", ".venv", "checkpoints", "samples", "~"}
"""First parts of paths that exist only after something was run."""

every_page = pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])


def tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8")):
        yield token
        yield from token.children or []


def blocks(page: Path, language: str) -> list[str]:
    return [token.content for token in tokens(page) if token.type == "fence" and token.info == language]


def code(page: Path) -> list[str]:
    """The page's `inline code`."""
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


@pytest.fixture
def configs(page, tmp_path) -> dict[str, str]:
    """The page's configs that bear a name, by that name: their paths."""
    named = {}
    for block in blocks(page, "yaml"):
        if match := re.match(r"# (\S+\.yaml)\n", block):
            named[match[1]] = str(tmp_path / match[1])
            Path(named[match[1]]).write_text(block, encoding="utf-8")
    return named


@every_page
def test_blocks_are_of_a_kind_that_is_checked(page):
    for token in tokens(page):
        if token.type == "fence" and not re.fullmatch(r"\{[a-z-]+\}.*", token.info):
            assert token.info in {"sh", "python", "yaml", "json", "text"}, token.content


@every_page
def test_commands(page, configs, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        check_command(words, configs)


def check_command(words: list[str], configs: dict[str, str]) -> None:
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "make":
        assert {word for word in arguments if "=" not in word} <= TARGETS, words
    elif program == "torchrun":
        position = arguments.index("trainer/main.py")
        parse(get_args_parser(), arguments[: position + 1])
        check_advgame(["train", *arguments[position + 1 :]], configs)
    elif program == "advgame":
        check_advgame(arguments, configs)
    elif program == "python":
        check_script(arguments)
    elif program == "pip":
        check_pip(arguments)
    elif program == "pytest":
        assert all((ROOT / path).exists() for path in arguments), words
    elif program == "pre-commit":
        assert arguments == ["install"] and (ROOT / ".pre-commit-config.yaml").is_file()
    else:
        assert os.access(ROOT / program, os.X_OK) and not arguments, f"no test knows the command {words}"


def check_advgame(arguments: list[str], configs: dict[str, str]) -> None:
    """The command's own parser takes the options, and the loader the configs and settings."""
    arguments = [configs.get(word, word) for word in arguments]
    settings = [word for word in arguments if SETTING.fullmatch(word)]
    options = parse(make_parser(), [word for word in arguments if word not in settings])
    if options:
        load = load_warmstart if options.command == "warmstart" else load_config
        load(getattr(options, "config", None), settings)


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace | None:
    """None for --help."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            return parser.parse_args(arguments)
        except SystemExit as end:
            assert end.code == 0, f"{arguments}: {said.getvalue()}"
    return None


def check_script(arguments: list[str]) -> None:
    """The script, or what it imports beside it, has an add_argument for each option."""
    script = ROOT / arguments[0]
    assert script.is_file(), arguments
    known = {"--help"}
    for file in (script, *script.parent.glob("support/*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                known |= {ast.literal_eval(arg) for arg in node.args if isinstance(arg, ast.Constant)}
    assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= known, arguments


def check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install", arguments
    for word in arguments[1:]:
        if word.startswith("-"):
            assert word in {"-e", "--no-build-isolation", "--no-deps"}, arguments
        elif match := re.fullmatch(r"(?:\.|advgame)(?:\[([\w,]+)\])?", word):
            assert set((match[1] or "trainer").split(",")) <= EXTRAS, arguments
        else:
            name, _, version = word.partition("==")
            assert name in PINNED and version in ("", PINNED[name]), f"{word}: not as in constraints.txt"


@every_page
def test_commands_in_the_text(page):
    parser = make_parser()
    known = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for text in code(page):
        words = shlex.split(text) if re.match(r"(make|pip|advgame) ", text) else [""]
        if words[0] == "make":
            assert words[1] in TARGETS, text
        elif words[0] == "pip":
            check_pip(words[1:])
        elif words[0] == "advgame":
            assert words[1] in known, text


@every_page
def test_configs(page, tmp_path):
    for number, block in enumerate(blocks(page, "yaml")):
        (tmp_path / f"{number}.yaml").write_text(block, encoding="utf-8")
        load = load_warmstart if page.name == "warmstart.md" else load_config
        load([str(tmp_path / f"{number}.yaml")], [])


@every_page
def test_seeds_and_what_is_taught(page, tmp_path):
    file = tmp_path / "block.jsonl"
    for block in blocks(page, "json"):
        file.write_text(block, encoding="utf-8")
        first = json.loads(block.splitlines()[0])
        read = read_seeds if "prompt" in first else read_wrappings if "wrapping" in first else read_pairs
        assert read([str(file)], "block")


@every_page
def test_settings_in_the_text(page):
    config = load_config(["tiny"], [])
    roots = (WarmstartConfig(),) if page.name == "warmstart.md" else (config, config.attacker)
    for text in code(page):
        if match := re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)+)(?:=.*)?", text):
            first, *rest = match[1].split(".")
            starts = [part for part in roots if hasattr(part, first)]
            if not starts or rest[-1] in FILES or not dataclasses.is_dataclass(getattr(starts[0], first)):
                continue
            part = getattr(starts[0], first)
            for name in rest:
                assert hasattr(part, name), f"{text}: no such setting"
                part = getattr(part, name)


@every_page
def test_paths_in_the_text(page):
    places = (ROOT, ROOT / "trainer", page.parent)
    named = [text for text in code(page) if re.fullmatch(r"(?:[\w.~-]+/)+[\w.-]*", text)]
    named += [path for block in blocks(page, "text") for path in re.findall(r"[a-z]+/[a-z_]+\.py", block)]
    for path in named:
        exists = any((place / path).exists() for place in places)
        config = ROOT / "trainer" / "configs" / f"{path}.yaml"
        assert exists or config.is_file() or path.split("/")[0] in MADE_BY_RUNS, f"{path}: is not there"


@every_page
def test_links(page):
    for token in tokens(page):
        link = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if not link or re.match(r"https?://", str(link)):
            continue
        path, _, anchor = str(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: leads nowhere"
        assert target.is_relative_to(ROOT), f"{link}: leads out of the repository"
        assert not anchor or anchor in headings(target), f"{link}: no such heading"


def headings(page: Path) -> set[str]:
    """Anchors, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_lines_of_prose_are_short(page):
    fenced = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fenced ^= line.startswith("```")
        if not fenced and not line.lstrip().startswith("|"):
            assert len(line) <= 120, f"line {number}: {len(line)} characters"
