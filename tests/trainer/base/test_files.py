"""Files that are replaced at once, and places where nothing can be written."""

import os

import pytest

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import (
    adding_folder,
    append_record,
    locked,
    make_folder,
    read_records,
    remove_folder,
    replacing,
    replacing_folder,
    truncate,
    write_text,
)


def test_a_write_that_is_cut_leaves_the_old_file(tmp_path):
    file = tmp_path / "file.txt"
    write_text(file, "old")
    with pytest.raises(KeyboardInterrupt), replacing(file) as half:
        half.write_text("ne")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    write_text(file, "new")
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("name", "other"), [("step-000010", "step-000005"), ("model", "model")])
def test_what_a_kill_leaves_of_a_folder_is_removed(tmp_path, name, other):
    leftover = tmp_path / f".{other}.tmp"
    leftover.mkdir()
    (leftover / "half").write_text("a f")
    with replacing_folder(tmp_path / name) as half:
        (half / "whole").write_text("a file")
    assert list(tmp_path.iterdir()) == [tmp_path / name] and (tmp_path / name / "whole").read_text() == "a file"


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ConfigError, match=f"--out {folder}: cannot write there .*; name another place"):
            make_folder(folder, f"--out {folder}")
    make_folder(tmp_path / "new" / "folder", "--out")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_records_are_cut_back(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert read_records(file) == []
    truncate(file, 3)  # nothing to cut
    for step in range(1, 4):
        append_record(file, {"step": step, "text": "ü\u2028"})
    size = file.stat().st_size
    with file.open("a") as out:
        out.write('{"step": 4}\n{"step": 5, "half a li')  # what a kill leaves
    truncate(file, size)
    assert [record["step"] for record in read_records(file)] == [1, 2, 3]
    assert read_records(file)[0]["text"] == "ü\u2028"


def test_a_lock_keeps_others_out_and_says_who_is_in(tmp_path):
    """The second holder is this process too: a lock belongs to an opened file, not to a process."""
    file = tmp_path / "lock"
    who = f"process {os.getpid()} on {os.uname().nodename}, since 20"
    with locked(file, "busy"):
        with pytest.raises(ConfigError, match=f"^busy: {who}"), locked(file, "busy"):
            pass
        assert file.read_text().startswith(who)
    with pytest.raises(ZeroDivisionError), locked(file, "busy"):
        1 / 0  # noqa: B018
    assert not file.exists()


def test_a_lock_of_another_host_is_named_in_a_warning(tmp_path, recwarn):
    """Its file system may not show us the lock, or its process was killed."""
    for host, warned in ((os.uname().nodename, False), ("elsewhere", True)):
        (tmp_path / "lock").write_text(f"process 1 on {host}, since")
        with locked(tmp_path / "lock", "busy"):
            assert bool(recwarn) == warned
    assert "names process 1 on elsewhere" in str(recwarn.pop().message)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "step-000001"
    for text in ("old", "new"):
        with replacing_folder(folder) as half:
            (half / text).write_text(text)
            (half / "inner").mkdir()
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "new"]
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder) as half:
        (half / "newer").write_text("half")
        raise KeyboardInterrupt
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    (tmp_path / ".step-000003.tmp").mkdir()  # what a killed process leaves
    with replacing_folder(tmp_path / "step-000002"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]
    remove_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_a_folder_that_another_process_has_made_is_kept(tmp_path):
    folder = tmp_path / "cache" / "model"
    with adding_folder(folder) as slower:
        (slower / "by").write_text("slower")
        with adding_folder(folder) as faster:
            (faster / "by").write_text("faster")
    assert (folder / "by").read_text() == "faster" and list(folder.parent.iterdir()) == [folder]
    with pytest.raises(ZeroDivisionError), adding_folder(tmp_path / "cache" / "broken"):
        1 / 0  # noqa: B018
    assert list(folder.parent.iterdir()) == [folder]
