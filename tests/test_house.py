"""The rules of the house, read from the imports and calls in the source."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = (
    ("base", "records", "packs"),
    ("settings", "arena"),
    ("seeds", "prompts"),
    ("wrappings",),
    ("models",),
    ("rollouts", "engines"),
    ("judges", "learn", "estimate"),
    ("game",),
    ("measure",),
    ("report",),
    ("run",),
    ("warmstart",),
    ("commands",),
    ("main",),
)
"""The rooms of trainer/ from the ground up. A room imports from lower floors only."""

STRANGERS = ("game", "learn")
"""Two rooms that know nothing of each other: records are what they have in common."""

WRITING = {"write_text", "write_bytes", "mkdir", "rename", "unlink", "rmtree", "mkdtemp", "savetxt", "fsync", "touch"}
NETWORK = {"openai", "httpx2", "socket", "http", "urllib", "requests", "httpx", "aiohttp", "ssl"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def modules() -> list[Path]:
    """Of trainer/, but for its __init__."""
    return [file for file in sources("trainer") if file != ROOT / "trainer/__init__.py"]


def imports(file: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


def room(file: Path) -> str:
    """Of a file in trainer/."""
    return file.relative_to(ROOT / "trainer").parts[0].removesuffix(".py")


def climbing(file: Path) -> list[str]:
    """The rooms that a file must not import from, but does."""
    own, level = room(file), {name: i for i, floor in enumerate(FLOORS) for name in floor}
    used = {name.split(".")[2] for name in imports(file) if name.startswith("advgame.trainer.")} - {own}
    strange = set(STRANGERS) - {own} if own in STRANGERS else set()
    return sorted(other for other in used if level[other] >= level[own] or other in strange)


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_from_lower_floors_only(file):
    assert not climbing(file)


def test_the_floors_hold_every_room():
    rooms = {room(file) for file in modules()}
    assert rooms == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("folder", ["kernels", "trainer"])
def test_nothing_that_is_installed_imports_what_is_not(folder):
    outside = {path.stem for path in (ROOT / "bench").rglob("*.py")} | {"bench", "tests", "support"}
    for file in sources(folder):
        assert not outside & {name.split(".")[0] for name in imports(file)}, file


def test_the_kernels_need_torch_alone():
    for file in sources("kernels"):
        for name in imports(file):
            assert not name.startswith(("advgame.trainer", "transformers", "numpy")), (file, name)


def test_helpers_of_the_benches_import_no_bench():
    scripts = {path.stem for path in (ROOT / "bench").glob("*.py")}
    for file in sources("bench/support"):
        assert not scripts & {name.split(".")[0] for name in imports(file)}, file


def test_processes_meet_in_few_places_only():
    for file in sources("kernels"):
        used = {name for name in imports(file) if name.startswith("torch.distributed")}
        assert file == ROOT / "kernels/shards.py" or used <= {"torch.distributed.ProcessGroup"}, file
    for file in sources("trainer"):
        if file != ROOT / "trainer/base/collectives.py" and room(file) != "engines":
            assert not any(name.startswith("torch.distributed") for name in imports(file)), file


def test_files_are_written_in_one_place_only():
    for file in sources("trainer"):
        if file == ROOT / "trainer/base/files.py":
            continue
        for call in calls(file):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            writes = name in WRITING and isinstance(call.func, ast.Attribute)
            writes |= name == "open" and len(call.args) + len(call.keywords) > 1
            assert not writes, f"{file}:{call.lineno}: {name}"


def test_only_rollouts_open_sockets():
    for file in sources("trainer"):
        if room(file) != "rollouts":
            assert not NETWORK & {name.split(".")[0] for name in imports(file)}, file


@pytest.mark.parametrize("folder", ["trainer", "bench", "bench/support"])
def test_no_module_shadows_another(folder):
    """The folder of a script comes first on sys.path: what is in it must not be called like anything else."""
    own = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or path.is_dir()}
    installed = {name for name, packages in packages_distributions().items() if packages != ["advgame"]}
    assert not own & (set(sys.stdlib_module_names) | installed)


def test_every_package_is_installed():
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for folder in ("kernels", "trainer"):
        for package in {file.parent.relative_to(ROOT) for file in sources(folder)}:
            assert f'"advgame.{".".join(package.parts)}"' in listed
            assert (ROOT / package / "__init__.py").exists()
