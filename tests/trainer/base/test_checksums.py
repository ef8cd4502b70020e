"""Damage to a folder is noticed, whatever and wherever it is."""

import shutil
import subprocess
from pathlib import Path

import pytest
from damage import flip, replace_by_folder

from advgame.trainer.base.checksums import MANIFEST, checksum, damage, write_manifest


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "large").write_bytes(bytes(3 << 20))
    (tmp_path / "folder" / "inner" / "ü").write_text("text")
    write_manifest(tmp_path / "folder")
    return tmp_path / "folder"


def test_a_folder_as_it_was_written_is_whole(folder):
    assert damage(folder) is None and damage(folder, "inner") is None
    if shutil.which("sha256sum"):
        assert (
            subprocess.run(["sha256sum", "--check", "--strict", MANIFEST], cwd=folder, capture_output=True).returncode
            == 0
        )


@pytest.mark.parametrize("name", ["large", "inner/ü", MANIFEST])
@pytest.mark.parametrize("change", [flip, Path.unlink, lambda file: file.write_text(""), replace_by_folder])
def test_a_file_that_has_changed_is_named(folder, name, change):
    change(folder / name)
    assert str(folder) in damage(folder)
    if name != MANIFEST:
        assert str(folder / name) in damage(folder)
        others = "inner" if name == "large" else "large"
        assert damage(folder, others) is None


def test_a_file_that_was_added_is_named(folder):
    (folder / "inner" / "more").touch()
    assert damage(folder) == f"{folder / 'inner' / 'more'} is not in its SHA256SUMS"
    assert damage(folder, "large") is None


def test_the_beginning_of_a_file_has_a_checksum_of_its_own(tmp_path):
    (tmp_path / "short").write_bytes(b"a" * 5)
    (tmp_path / "long").write_bytes(b"a" * 5 + b"b" * 5)
    assert checksum(tmp_path / "long", 5) == checksum(tmp_path / "short") != checksum(tmp_path / "long")
