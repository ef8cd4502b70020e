"""Files that are replaced at once, and places where nothing can be written."""

import pytest

from advgame.trainer.config import ConfigError
from advgame.trainer.outputs import make_folder, replacing, write


def test_a_write_that_is_cut_leaves_the_old_file(tmp_path):
    file = tmp_path / "file.txt"
    write(file, "old")
    with pytest.raises(KeyboardInterrupt), replacing(file) as half:
        half.write_text("ne")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    write(file, "new")
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ConfigError, match=f"--out {folder}: cannot write there .*; name another place"):
            make_folder(folder, f"--out {folder}")
    make_folder(tmp_path / "new" / "folder", "--out")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
