"""Damaged run folders: whoever reads one names the file, or does what it would have done without the damage."""

import shutil
from pathlib import Path

import pytest
from damage import FILES, READERS, STEPS, WAYS, Reading, damaged_copy, is_honest, make_run, read
from helpers import records

from advgame.trainer.base.checksums import write_manifest
from advgame.trainer.run import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("damage") / "run")


@pytest.fixture(scope="module")
def undamaged(run, tmp_path_factory) -> dict[str, Reading]:
    """What each command makes of the run as it is."""
    copies = {reader: tmp_path_factory.mktemp("undamaged") / "run" for reader in READERS}
    return {reader: read(reader, Path(shutil.copytree(run, copy))) for reader, copy in copies.items()}


def check(run: Path, folder: Path, undamaged: dict[str, Reading], file: str, way: str, reader: str) -> None:
    reading = read(reader, damaged_copy(run, folder, file, way))
    assert is_honest(reading, undamaged[reader], file), (file, way, reader, reading)
    shutil.rmtree(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file(run, undamaged, tmp_path, file):
    """Each file in one way, and for each reader."""
    way = list(WAYS)[FILES.index(file) % len(WAYS)]
    for reader in READERS:
        check(run, tmp_path / "run", undamaged, file, way, reader)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reader", [reader for reader in READERS if reader != "train"])
def test_every_file_damaged_in_every_way(run, undamaged, tmp_path, way, reader):
    """Runs that go on are left to `make faults`."""
    for file in FILES:
        check(run, tmp_path / "run", undamaged, file, way, reader)


def test_the_undamaged_run_is_read(undamaged):
    assert all(reading.code == 0 and reading.result for reading in undamaged.values()), undamaged


def resumed(run: Path, undamaged: dict[str, Reading]) -> str:
    """What is said when the run goes on to the same end as without damage."""
    reading = read("train", run)
    assert reading.result == undamaged["train"].result, reading
    assert [line["step"] for line in records(run)] == list(range(1, STEPS + 3))
    return reading.said


def test_the_checkpoint_before_a_damaged_one_is_taken(run, undamaged, tmp_path):
    copy = damaged_copy(run, tmp_path / "run", "checkpoints/step-000004/state.json", "one bit flipped")
    damaged = checkpoint.folder(copy, 4) / "state.json"
    said = resumed(copy, undamaged)
    assert f"{damaged} is damaged: it is not as it was written; this checkpoint is set aside" in said
    assert "the run continues from that of step 2" in said
    assert checkpoint.finished(copy) == [2, 4, 6]
    checkpoint.check_whole(copy, 4)  # it was written anew
    assert (copy / "checkpoints" / "step-000004.damaged" / "state.json").exists()


def test_no_checkpoint_that_is_whole(run, tmp_path):
    copy = damaged_copy(run, tmp_path / "run", "checkpoints/step-000004/state.json", "emptied")
    (checkpoint.folder(copy, 2) / "defender_ema" / "tokenizer.json").unlink()
    reading = read("train", copy)
    assert reading.code == 2 and "there is no other checkpoint that is whole" in reading.said
    assert len(records(copy)) == STEPS  # nothing was touched


def test_a_stray_folder_is_no_checkpoint(run, undamaged, tmp_path):
    """It is never the newest, nor does it push out those that are."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    stray = checkpoint.folder(copy, 999_999)
    stray.mkdir()
    assert read("evaluate", copy).code == 2
    said = resumed(copy, undamaged)
    assert f"{stray / 'SHA256SUMS'} is missing; this" in said and "continues from that of step 4" in said
    assert checkpoint.finished(copy) == [2, 4, 6] and read("evaluate", copy).code == 0


def test_optimisers_that_were_swapped(run, undamaged, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    one, other = (checkpoint.folder(copy, 4) / f"{name}_optimizer.safetensors" for name in ("attacker", "defender"))
    content = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(content)
    assert "_optimizer.safetensors is damaged" in resumed(copy, undamaged)


def test_metrics_with_a_hole(run, undamaged, tmp_path):
    """A line that is gone is noticed; without the file a run goes on, and says so."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    file = copy / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:1] + lines[2:]))
    reading = read("train", copy)
    assert reading.code == 2 and f"{file} is damaged" in reading.said and "remove it to do without" in reading.said
    file.unlink()
    reading = read("train", copy)
    assert reading.result == undamaged["train"].result and f"warning: {file} is missing" in reading.said
    assert [line["step"] for line in records(copy)] == [5, 6]
    assert "warning: " not in read("train", copy).said


def test_a_checkpoint_keeps_the_settings_itself(run, undamaged, tmp_path):
    """The run's config.yaml is a copy for people."""
    copy = damaged_copy(run, tmp_path / "run", "config.yaml", "removed")
    assert read("evaluate", copy).result == undamaged["evaluate"].result
    resumed(copy, undamaged)
    assert (copy / "config.yaml").read_text() == (checkpoint.folder(copy, 6) / "config.yaml").read_text()


@pytest.mark.parametrize(
    "state", ["[]", '{"step": 4}', '{"format": 3, "step": "4", "games": [], "records": {}}', "null"]
)
def test_a_state_that_was_written_by_hand(run, undamaged, tmp_path, state):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    saved = checkpoint.folder(copy, 4)
    (saved / "state.json").write_text(state)
    write_manifest(saved)
    reading = read("train", copy)
    assert is_honest(reading, undamaged["train"], "state.json") or "another version of advgame" in reading.said, reading
