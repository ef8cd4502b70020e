"""The page of a run, from what is in its folder."""

import json
from contextlib import suppress
from pathlib import Path

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import read_records
from advgame.trainer.report.overview import Story, write_overview
from advgame.trainer.report.transcripts import first_games
from advgame.trainer.run.folder import CROSSPLAY, EVALUATIONS, METRICS, PAYOFF, REPORT, SAMPLES
from advgame.trainer.settings.schema import Config


def write_report(run: Path, config: Config) -> Path:
    """Writes report.html and says where. Raises ConfigError if nothing is recorded yet, or a record is damaged."""
    metrics, evaluations = read_records(run / METRICS), read_records(run / EVALUATIONS)
    if not metrics and not evaluations:
        raise ConfigError(f"{run}: nothing to report, it has neither {METRICS} nor {EVALUATIONS}; train first")
    file = run / REPORT
    write_overview(file, Story(run.resolve().name, config, metrics, evaluations, _transcripts(run), _payoff(run)))
    return file


def _transcripts(run: Path) -> dict[int, str]:
    """The beginnings of the first one and the last one, by their step."""
    files = sorted((run / SAMPLES).glob("step-*.txt"))
    ends = files[:1] + files[1:][-1:]
    return {int(file.stem.split("-")[1]): first_games(file.read_text(encoding="utf-8")) for file in ends}


def _payoff(run: Path) -> dict | None:
    file = run / CROSSPLAY / PAYOFF
    if not file.exists():
        return None
    with suppress(ValueError):
        payoff = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(payoff, dict) and "detection" in payoff:
            return payoff
    raise ConfigError(f"{file}: is damaged, or of an earlier version; remove it, or run advgame crossplay again")
