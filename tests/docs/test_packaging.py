"""What pyproject.toml installs and the reference lists is what is there."""

import re
from pathlib import Path

import advgame.kernels

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def table(name: str) -> str:
    return PYPROJECT.partition(f"[{name}]\n")[2].partition("\n[")[0]


def test_every_folder_with_modules_is_a_package():
    folders = {file.parent for name in ("kernels", "trainer") for file in (ROOT / name).rglob("*.py")}
    expected = {".".join(("advgame", *folder.relative_to(ROOT).parts)) for folder in folders}
    listed = re.search(r"^packages = \[(.*?)\]", table("tool.setuptools"), re.DOTALL | re.MULTILINE)[1]
    assert set(re.findall(r'"([\w.]+)"', listed)) == expected


def test_package_data_is_there_and_complete():
    data = table("tool.setuptools.package-data")
    for package, listed in re.findall(r'"(advgame\.\w+)" = \[(.*?)\]', data, re.DOTALL):
        folder = ROOT / package.removeprefix("advgame.")
        patterns = re.findall(r'"([^"]+)"', listed)
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: nothing matches {pattern}"
        installed = {file for pattern in patterns for file in folder.glob(pattern)}
        present = {file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
        assert not {file for file in present - installed if file.suffix not in (".py", ".so", ".pyc")}


def test_the_reference_has_all_public_names_of_the_kernels():
    page = (ROOT / "docs" / "kernels" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r":: (\w+)", page)) - {"advgame"} == set(advgame.kernels.__all__)
