"""Judges and targets that give no verdict or no answer: real servers, and what people then get to see."""

import json
import re
from itertools import count
from pathlib import Path

import pytest
from chatserver import ChatServer, chat_server
from helpers import run_tiny

from advgame.trainer.commands.main import main
from advgame.trainer.seeds import read_seeds

ZERO = re.compile(r"(?<![\d.])0(\.0+)?%")
"""A figure, or an end of an interval, that is nothing."""


def judged_by(server: ChatServer) -> tuple[str, ...]:
    url, model = server.config.url, server.config.model
    return ("judge.kind=server", f"judge.server.url={url}", f"judge.server.model={model}")


def shares(value: object) -> list[float | None]:
    """Of all rates of attack success, compliance and so on, however deep in a record."""
    if isinstance(value, list):
        return [share for each in value for share in shares(each)]
    if not isinstance(value, dict):
        return []
    return [value["share"]] if "share" in value else [share for each in value.values() for share in shares(each)]


@pytest.fixture
def harmful(tmp_path) -> str:
    file = tmp_path / "harmful.jsonl"
    seeds = [seed for seed in read_seeds(["tiny.jsonl"]) if seed.category == "harmful"]
    file.write_text("".join(json.dumps({"prompt": s.query, "category": s.category}) + "\n" for s in seeds))
    return str(file)


def redteam(server: ChatServer, seeds: str, out: Path, *options: str) -> int:
    target = ("--target", server.config.url, "--target-model", server.config.model, "--out", str(out))
    attacks = ("--attacker", "tiny", "--config", "tiny", "--seeds", seeds, "--samples", "8")
    return main(["redteam", *attacks, *target, "judge.faithfulness=false", *options])


def test_a_gate_fails_if_too_few_attacks_have_a_verdict(harmful, tmp_path, capfd):
    """The server refuses all requests but the trial and two more, which makes 22 of 48 attacks without a verdict."""
    for limit, code in (((), 1), (("--max-unjudged", "0.5"), 0)):
        number = count()
        few = chat_server(lambda _, number=number: "I will not." if next(number) < 3 else 400)
        with few as server, pytest.warns(UserWarning, match="22 of 24 requests failed"):
            assert redteam(server, harmful, tmp_path / "out", "--max-attack-success", "0.2", *limit) == code
        shown = capfd.readouterr()
        said = "error: the target: 22 of 48 attacks on harmful seeds have no verdict (45.8%), more than --max-unjudged"
        assert (said in shown.err) == bool(code)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rate = results["rates"]["attack_success"]
    assert (rate["successes"], rate["trials"], rate["unjudged"]) == (0, 26, 22)
    assert rate["unjudged_share"] == pytest.approx(22 / 48)
    reason = "22 of 48 attacks (45.8%) have no verdict and are not counted: the target gave no answer (22)."
    listed = "no verdict: the target gave no answer"
    for text in (shown.out, *((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))):
        assert reason in text and listed in text
        assert "0% of 26 (0%–13%; by seeds 0%–0%; 22 of 48 unjudged)" in text  # the rate, beside its intervals


def test_where_all_requests_fail_there_are_dashes(harmful, tmp_path, capfd):
    number = count()
    none = chat_server(lambda _: 400 if next(number) else "The trial is answered.")
    with none as server, pytest.warns(UserWarning, match="24 of 24 requests failed"):
        assert redteam(server, harmful, tmp_path / "out", "--by", "category", "--max-unjudged", "1") == 1
    shown = capfd.readouterr()
    assert "24 of 48 attacks on harmful seeds have no verdict, and no other reached the judge" in shown.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for rates in (results["rates"], results["by"]["harmful"]["rates"]):
        assert {rate["share"] for rate in rates.values()} == {rate["high"] for rate in rates.values()} == {None}
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (shown.out, (tmp_path / "out" / "report.md").read_text(), page):
        assert "Attack success is not known. 24 of 48 attacks (50.0%) have no verdict" in text
        assert "– (24 of 48 unjudged)" in text and not ZERO.search(text)
    assert page.count(">no verdict</span>") == 24


def test_a_judge_that_never_parses_is_no_measurement(tmp_path, capsys):
    """In training, and in what is measured of the run afterwards."""
    run = tmp_path / "run"
    with chat_server(lambda _: "I would rather not say.") as server:
        evaluations = ("eval.every=1", "eval.seeds=[tiny.jsonl]", "checkpoint.every=1", "checkpoint.keep=9")
        run_tiny(run, "steps=2", "steps_per_batch=1", *evaluations, *judged_by(server))
        trained = capsys.readouterr().out
        assert main(["evaluate", str(run), "--max-attack-success", "1"]) == 1
        evaluated = capsys.readouterr()
        assert main(["crossplay", str(run)]) == 0
        crossed = capsys.readouterr().out
    for shown in (trained, evaluated.out, crossed):
        assert not ZERO.search(shown) and "of 6 unjudged" in shown
    assert re.search(r"step 1/2  attack success – \(\d+ of \d+ unjudged\)  benign compliance – \(", trained)
    assert trained.count("attack success without a verdict: ") == 3 and "6 of 6 (100%) plain" in trained
    assert "alarm: attack success without a verdict: " in evaluated.out
    refusal = r"error: current attacker: \d of 6 attacks .* no verdict, .*: attack success is not known\n"
    assert re.fullmatch(refusal, evaluated.err)
    assert "step 2): nothing is known" in crossed and "have no verdict and are not counted" in crossed
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        for line in (run / name).read_text().splitlines():
            assert set(shares(json.loads(line))) == {None}
    assert set(shares(json.loads((run / "crossplay" / "payoff.json").read_text()))) == {None}
