"""The page of a run: what was measured and nothing else, all of it text, in one file."""

import json
import re
import shutil
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import run_tiny, tiny_config
from htmlpage import Page

from advgame.trainer.base.files import read_records
from advgame.trainer.base.text import printable
from advgame.trainer.commands.main import main
from advgame.trainer.measure.detection import Detection, Estimate
from advgame.trainer.measure.payoff import Payoff
from advgame.trainer.measure.rates import rate
from advgame.trainer.report.labels import SHOWN
from advgame.trainer.report.overview import Story, write_overview
from advgame.trainer.report.tables import measured

HOSTILE = (
    '</pre><script>alert(1)</script><img src="http://evil/x" onerror=alert(2)>\x1b[2J\u202e {{ 7 * 7 }} <svg/onload=x>'
)
CHANGES = "Held-out seeds, by what the defender was shown"


def story(run: Path, **other) -> Story:
    """What a run's folder says."""
    records = [read_records(run / f"{name}.jsonl") for name in ("metrics", "evaluation")]
    return replace(Story("a run", tiny_config(run), *records, {}, None), **other)


def written(told: Story, folder: Path) -> tuple[str, Page]:
    write_overview(folder / "report.html", told)
    page = (folder / "report.html").read_text(encoding="utf-8")
    return page, Page(page)


def sections(page: Page) -> list[str]:
    return [text for tag, text in page.headings if tag == "h2"]


def test_a_run_ends_with_its_page(evaluated):
    text = (evaluated / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings[0] == ("h1", "Run run")
    assert sections(page) == ["Before and after", "Curves", "Samples", "Resources", "Settings"]
    ends = [line for line in read_records(evaluated / "evaluation.jsonl") if line["step"] in (0, 5)]
    rows = page.tables[CHANGES]
    assert rows[0] == ["", "start", "step 5"]
    for shown, label in SHOWN.items():
        before, after = (measured(line[shown]) for line in ends)
        expected = [[name, before[name], after[name]] for name in after if {before[name], after[name]} != {"–"}]
        at = rows.index([label])
        assert rows[at + 1 : at + 1 + len(expected)] == expected and expected
    assert len(rows) == 1 + len(SHOWN) + sum(len(row) == 3 for row in rows[1:])
    said = [sample for pair in zip(*(line["samples"] for line in ends), strict=True) for sample in pair]
    assert {sample["category"] for sample in said} == {"harmful", "benign"} and len(said) == 4
    for sample in said:
        assert {printable(sample[key]) for key in ("seed", "attack", "response") if sample[key]} <= set(page.blocks)
    assert [sample["seed"] for sample in said[::2]] == [sample["seed"] for sample in said[1::2]]
    assert page.blocks[-1].strip() == (evaluated / "config.yaml").read_text(encoding="utf-8").strip()
    stages = json.loads((evaluated / "resources.json").read_text())["stages"]
    assert set(stages) <= {row[0] for row in page.tables["Time by stage, memory, tokens and energy"]}


def test_it_is_one_file_that_loads_nothing(evaluated):
    text = (evaluated / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "default-src 'none'" in text
    assert "://" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)  # a setting is an address
    assert page.references and {ref.removeprefix("#") for ref in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r"url\(#(.*?)\)", text)) <= set(page.ids) and text.count("url(") == text.count("url(#")
    assert not {"script", "img", "link", "iframe", "form", "object"} & page.tags
    assert not [name for name in page.attributes if name.startswith("on")]


def test_curves_are_told_to_those_who_do_not_see_them(evaluated):
    pytest.importorskip("matplotlib")
    page = Page((evaluated / "report.html").read_text(encoding="utf-8"))
    first, *_, last = read_records(evaluated / "metrics.jsonl")
    (rewards,) = [label for label in page.labels if label.startswith("rewards, by step")]
    for line in (first, last):
        assert f"{line['game']['attacker_reward']:.3g} at step {line['step']}" in rewards
    assert "currentColor" in (evaluated / "report.html").read_text(encoding="utf-8")


def test_what_was_not_measured_is_not_there(tmp_path):
    run = run_tiny(tmp_path / "run", "steps=2")
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert sections(page) == ["Curves", "Samples", "Resources", "Settings"]
    assert CHANGES not in page.tables and not any("diversity" in label for label in page.labels)
    assert page.blocks[0].startswith("=== ") and len(re.findall("^=== ", page.blocks[0], re.MULTILINE)) == 3
    for block, step in zip(page.blocks[:2], (1, 2), strict=True):
        assert (run / "samples" / f"step-{step:06d}.txt").read_text().startswith(block.rstrip("\n"))


def test_one_evaluation_is_no_change(evaluated, tmp_path):
    (start, *_) = read_records(evaluated / "evaluation.jsonl")
    _, page = written(story(evaluated, metrics=[], evaluations=[start]), tmp_path)
    assert page.tables[CHANGES][0] == ["", "start"] and "Resources" not in sections(page)


def test_a_rate_without_verdicts_is_no_zero(evaluated, tmp_path):
    lines = read_records(evaluated / "evaluation.jsonl")
    for line in lines:
        line["plain"] |= {"attack_success": asdict(rate([None] * 3))}
        line["plain"] |= dict.fromkeys(("benign_compliance", "over_refusal"), asdict(rate([])))
        estimates = ("d_prime", "criterion", "attack_success_by_seeds", "benign_compliance_by_seeds")
        line["plain"] |= dict.fromkeys(estimates, asdict(Estimate(None, None, None)))
    _, page = written(story(evaluated, evaluations=lines), tmp_path)
    rows = page.tables[CHANGES]
    assert rows[rows.index(["plain seeds"]) + 1 :] == [["attack success", *["– (3 of 3 unjudged)"] * 2]]
    if find_spec("matplotlib"):
        (told,) = [label for label in page.labels if label.startswith("plain seeds")]
        assert "attack success: – (3 of 3 unjudged)" in told and "0%" not in told


def test_cross_play_is_on_it(evaluated, tmp_path):
    success = [[rate([True, False]), rate([None])], [rate([]), rate([False] * 4)]]
    nothing = Estimate(None, None, None)
    known = Detection(nothing, nothing, Estimate(1.25, 0.5, 2.0), Estimate(-0.75, None, None))
    payoff = Payoff([0, 5], 2, 0, success, [[rate([])] * 2] * 2, [[known] * 2] * 2, [])
    for both in (payoff, replace(payoff, benign=3)):
        record = asdict(both) | {"reading": ["It does not cycle."]}
        text, page = written(story(evaluated, payoff=record), tmp_path)
        tables = {caption: rows for caption, rows in page.tables.items() if "attackers down" in caption}
        titles = ["Attack success on 2 harmful seeds"]
        titles += ["Compliance on 3 benign seeds", "Discrimination (d′)", "Threshold (criterion)"] * bool(both.benign)
        assert list(tables) == [f"{title}: attackers down, defenders across" for title in titles]
        tables = [*tables.values()]
        for table in tables:
            assert table[0] == ["", "0", "5"] and [row[0] for row in table[1:]] == ["0", "5"]
        assert [row[1:] for row in tables[0][1:]] == [["50%\n9%–91%", "–\n1 of 1 unjudged"], ["–", "0%\n0%–49%"]]
        assert "Payoff" in sections(page) and ("--shade: 0.3125" in text) == bool(both.benign)
        if both.benign:
            assert tables[1][1][1] == "–" and tables[2][1][1:] == ["1.25\n0.50 to 2.00"] * 2
            assert tables[3][2][1:] == ["-0.75"] * 2


def test_what_models_and_seeds_say_stays_text(evaluated, tmp_path):
    lines = read_records(evaluated / "evaluation.jsonl")
    for line in lines:
        line["alarms"] = [HOSTILE]
        for sample in line["samples"]:
            sample |= {"seed": HOSTILE, "attack": HOSTILE, "response": HOSTILE}
    config = tiny_config(evaluated)
    config.attacker.model, config.seeds.files = HOSTILE, [HOSTILE]
    text, page = written(story(evaluated, name=HOSTILE, config=config, evaluations=lines), tmp_path)
    clean = Page((evaluated / "report.html").read_text(encoding="utf-8"))
    assert page.tags == clean.tags and page.attributes == clean.attributes
    assert page.references == clean.references
    assert page.blocks[:-1] == [printable(HOSTILE)] * 10
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    written(story(evaluated, metrics=[], evaluations=[], transcripts={1: HOSTILE}), tmp_path)
    assert printable(HOSTILE) in Page((tmp_path / "report.html").read_text(encoding="utf-8")).blocks


def test_the_command_writes_it_again_with_cross_play(tmp_path, capsys):
    run = run_tiny(tmp_path / "run", "steps=2", "steps_per_batch=1", "checkpoint.every=1")
    assert main(["crossplay", str(run), "judge.faithfulness=false"]) == 0
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert "Payoff" in sections(Page((run / "report.html").read_text(encoding="utf-8")))
    for damaged in ("{", "[]", '{"steps": [0, 1, 2], "harmful": 6, "benign": 6}', "\x00"):
        (run / "crossplay" / "payoff.json").write_text(damaged)
        assert main(["report", str(run)]) == 2
        assert "payoff.json: is damaged, or of an earlier version" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.jsonl"])
def test_a_damaged_record_is_named(evaluated, tmp_path, capsys, name):
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    file, page = run / name, (run / "report.html").read_bytes()
    whole = file.read_bytes()
    lines = whole.split(b"\n")[:-1]
    file.write_bytes(whole + b'{"step": 6, "ga')  # what is being written is no damage
    assert main(["report", str(run)]) == 0 and (run / "report.html").read_bytes() == page
    capsys.readouterr()
    for last in (bytes(100), lines[-1][:-9], b"\xff" + lines[-1], b"[]", b"{}\x00", b""):
        file.write_bytes(b"\n".join([*lines[:-1], last, b""]))
        assert main(["report", str(run)]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"error: {file}, line {len(lines)}: is damaged, no JSON object; ")
        assert said.endswith("start the run again to go back to its newest checkpoint, or remove this line")
    file.write_bytes(b"\n".join([*lines[:-1], b""]))
    assert main(["report", str(run)]) == 0


def test_a_run_that_has_recorded_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    assert main(["report", str(tmp_path)]) == 2
    assert "nothing to report" in capsys.readouterr().err
