"""The summary of a finished run."""

import json
from pathlib import Path

from advgame.trainer.base.files import read_records, write_text
from advgame.trainer.measure.lately import wasted
from advgame.trainer.measure.resources import summarise
from advgame.trainer.report.plots import EVALUATION, METRICS, draw
from advgame.trainer.report.tables import evaluation_text, resources_text, samples_text
from advgame.trainer.run import checkpoint, folder
from advgame.trainer.run.page import write_report
from advgame.trainer.settings.schema import Config


def sum_up(run: Path, config: Config) -> str:
    """Draws the curves, writes resources.json and the page.

    Returns what went wrong, samples and figures of the last evaluation beside those of the first, where everything is,
    and what it took.
    """
    records, evaluations = read_records(run / folder.METRICS), read_records(run / folder.EVALUATIONS)
    drawn = draw(METRICS, records, run / "curves.png")
    if evaluations:
        draw(EVALUATION, evaluations, run / "evaluation.png")
    resources = summarise(records, config.report.grid_intensity)
    write_text(run / "resources.json", json.dumps(resources, indent=2) + "\n")
    both = bool(evaluations)
    lines = {
        "models": f"{checkpoint.folder(run, checkpoint.finished(run)[-1])}/{{attacker,defender}}{{,_ema}}",
        "metrics": f"{run}/{'{metrics,evaluation}' if both else 'metrics'}.jsonl",
        "samples": f"{run}/{folder.SAMPLES}",
        "curves": f"{run}/{'{curves,evaluation}' if both else 'curves'}.png" if drawn else NOT_DRAWN,
        "resources": f"{run}/resources.json",
        "report": f"{write_report(run, config)}",
    }
    places = "\n".join(f"{name:<11}{place}" for name, place in lines.items())
    warnings = [sentence for player in ("attacker", "defender") if (sentence := wasted(player, records))]
    compared = [evaluations[0], evaluations[-1]] if evaluations else []
    measured = [evaluation_text(f"held-out seeds at step {record['step']}", record) for record in compared]
    said = [samples_text(compared)] if compared else []
    return "\n\n".join([*warnings, *said, *measured, places, resources_text(resources)])


def finished(run: Path, steps: int) -> str:
    """What to say if a run has nothing left to do."""
    return f"{run} has all its {steps} steps. To continue: steps={2 * steps}; to start again: another output_dir."


def way_on(run: Path, config: Config) -> str:
    """What to do after numbers that are not finite."""
    lower = "lower optimizer.lr of the player"
    steps = checkpoint.finished(run)
    if not steps:
        models = " or ".join(dict.fromkeys(str(player.model) for player in (config.attacker, config.defender)))
        return f"Nothing has been saved: {lower}, or look for broken weights in {models}"
    newest = checkpoint.folder(run, steps[-1])
    return f"To go on from {newest}, {lower} and start again; if that ends in the same way, remove this folder first"


NOT_DRAWN = "not drawn: pip install 'advgame[report]'"
