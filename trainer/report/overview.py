"""A run as one page for the browser: what changed, how, and what was said."""

from dataclasses import dataclass
from pathlib import Path

from advgame.trainer.base.files import write_text
from advgame.trainer.measure.attempts import AttemptOutcome
from advgame.trainer.measure.lately import wasted
from advgame.trainer.measure.resources import summarise
from advgame.trainer.report.drawings import drawings
from advgame.trainer.report.labels import ABOUT_DETECTION, SHOWN
from advgame.trainer.report.matrices import matrices
from advgame.trainer.report.plots import EVALUATION, METRICS
from advgame.trainer.report.rendering import render
from advgame.trainer.report.tables import measured, resources_rows
from advgame.trainer.report.wording import number
from advgame.trainer.settings.load import to_yaml
from advgame.trainer.settings.schema import Config


@dataclass(frozen=True)
class Story:
    """All that a run has recorded."""

    name: str
    config: Config
    metrics: list[dict]
    """A record a step."""
    evaluations: list[dict]
    transcripts: dict[int, str]
    """What was played, by step: of the first one and the last one."""
    payoff: dict | None
    """Of cross-play, as in payoff.json."""


def write_overview(file: Path, story: Story) -> None:
    """Writes the page. What was not measured is not on it."""
    config, metrics, evaluations = story.config, story.metrics, story.evaluations
    ends = first_and_last(evaluations)
    curves = [drawings(METRICS, metrics), drawings(EVALUATION, evaluations)]
    values = {
        "name": story.name,
        "facts": facts(story),
        "warnings": [said for player in ("attacker", "defender") if metrics and (said := wasted(player, metrics))],
        "alarms": ends[-1]["alarms"] if ends else [],
        "steps": [record["step"] for record in ends],
        "compared": compared(ends),
        "about_detection": ABOUT_DETECTION,
        "curves": None if None in curves else [drawing for part in curves for drawing in part or []],
        "samples": [*zip(*(record.get("samples", []) for record in ends), strict=False)],  # older ones have none
        "told": {outcome.value: outcome.told for outcome in AttemptOutcome},
        "transcripts": story.transcripts,
        "payoff": story.payoff,
        "matrices": matrices(story.payoff) if story.payoff else {},
        "resources": resources_rows(summarise(metrics, config.report.grid_intensity)) if metrics else [],
        "settings": to_yaml(config),
    }
    write_text(file, render("run.html.jinja", values))


def facts(story: Story) -> dict[str, str]:
    """Who played, over what, for how long."""
    config = story.config
    return {
        "steps": f"{len(story.metrics)} of {config.steps}",
        "attacker": config.attacker.model,
        "defender": config.defender.model,
        "judge": config.judge.model or config.judge.server.model or config.judge.kind,
        "seeds": ", ".join(config.seeds.files),
    }


def first_and_last(records: list[dict]) -> list[dict]:
    """One if there is only one."""
    return records[:1] + records[1:][-1:]


def compared(ends: list[dict]) -> dict[str, dict[str, list[str]]]:
    """Figures of evaluations side by side, by what the defender was shown; nothing of what none of them measured."""
    table = {}
    for shown, label in SHOWN.items():
        sides = [measured(record[shown]) for record in ends]
        rows = {name: [side[name] for side in sides] for name in (sides[0] if sides else ())}
        if known := {name: row for name, row in rows.items() if set(row) != {number(None)}}:
            table[label] = known
    return table
