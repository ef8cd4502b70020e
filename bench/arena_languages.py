"""Does what is learnt in one language hold in another? Players of the arena that know two, and play in the first.

    python bench/arena_languages.py               two warm starts, three games each, on one core

The second language has the first one's meanings, wrappings and grammar, and words of its own. Its answers are its own
words as well, or, as a second case, those of the first language. Before and after the game, players are measured in
both languages by the exact judge, on the same meanings and attacks, which are held out.
"""

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from support.arena import MEASURES, Players, arena, measure, play_run
from support.bilingual import bilingual_players, in_second, second_judge

from advgame.trainer.measure.evaluation import read_held_out
from advgame.trainer.models.load import quiet

CASES = {"answers of its own": False, "shared answers": True}
"""Of the second language; whether its answers are the first one's."""
LANGUAGES = ("played", "other")
TIMES = ("before", "after")
DRAWN = (
    "held-out attacks on last defender",
    "first attacker on last defender",
    "last attacker on first defender",
    "faithful attacks",
)


def run_case(case: str, seeds: int, runs: Path) -> list[dict]:
    """Measures of the first players, and of those of each run, in both languages."""
    name = case.replace(" ", "-")
    first = bilingual_players(runs, CASES[case])
    models = (f"attacker.model={first.attacker}", f"defender.model={first.defender}")
    found = [{"case": case, "time": "before", **in_languages(first, first, CASES[case])}]
    for seed in track(range(seeds), case, console=Console(stderr=True)):
        last = play_run(runs / f"{name}-{seed}", f"seed={seed}", *models)
        found.append({"case": case, "time": "after", "seed": seed, **in_languages(last, first, CASES[case])})
    return found


def in_languages(last: Players, first: Players, shared_answers: bool) -> dict[str, dict[str, float | None]]:
    """All measures, in the language of the game and in the other."""
    held_out = read_held_out(arena().eval)
    return {
        "played": measure(last, first),
        "other": measure(last, first, second_judge(shared_answers), in_second(held_out)),
    }


def summary(results: list[dict]) -> dict[str, dict[str, list[float | None]]]:
    """Case, language and time -> measure -> [mean, standard deviation] over the seeds; None where nothing is known."""
    means = {}
    for case in dict.fromkeys(result["case"] for result in results):
        for language in LANGUAGES:
            for time in TIMES:
                runs = [result[language] for result in results if (result["case"], result["time"]) == (case, time)]
                means[f"{case}, {language}, {time}"] = {
                    name: _average([run[name] for run in runs]) for name in MEASURES
                }
    return means


def print_table(means: dict, seeds: int) -> None:
    title = f"language of the game and the other; after: mean ± standard deviation over {seeds} seeds"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in MEASURES:
        table.add_column(name, justify="right")
    for row, values in means.items():
        table.add_row(row, *(_show(*values[name]) for name in MEASURES))
    Console(width=150).print(table)


def _average(values: list[float | None]) -> list[float | None]:
    known = [value for value in values if value is not None]
    return [statistics.mean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None]


def _show(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def draw(means: dict, file: Path) -> None:
    """A row for each case; before and after in the language of the game, and in the other."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row.split(", ")[0] for row in means))
    figure = Figure(figsize=(15, 3.5 * len(cases)), layout="constrained")
    for row, case in zip(figure.subplots(len(cases), len(DRAWN), squeeze=False), cases, strict=True):
        for axes, name in zip(row, DRAWN, strict=True):
            for i, time in enumerate(TIMES):
                values = [means[f"{case}, {language}, {time}"][name] for language in LANGUAGES]
                heights = [mean for mean, _ in values]
                errors = [deviation or 0.0 for _, deviation in values]
                places = [place + 0.4 * i for place in range(len(LANGUAGES))]
                axes.bar(
                    places, heights, 0.38, yerr=errors if any(errors) else None, capsize=4, label=time, color=f"C{i}"
                )
            axes.set_xticks([place + 0.2 for place in range(len(LANGUAGES))], LANGUAGES)
            axes.set(ylim=(0, 1.05), ylabel=MEASURES[name])
            axes.set_title(f"{name}\n{case}", fontsize=9)
        row[1].legend()  # where bars are low
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", help=f"beginnings of their names, with commas between; of {'; '.join(CASES)}")
    parser.add_argument("--seeds", type=int, default=3, help="games of each case")
    parser.add_argument("--runs", type=Path, default=Path("runs/arena-languages"), help="first players and games")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/languages.json"), help="the plot goes beside")
    options = parser.parse_args()
    quiet()
    chosen = [case for case in CASES if options.cases is None or case.startswith(tuple(options.cases.split(",")))]
    results = [result for case in chosen for result in run_case(case, options.seeds, options.runs)]
    means = summary(results)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"means": means, "runs": results}, indent=1))
    print_table(means, options.seeds)
    draw(means, options.json.with_suffix(".png"))
    print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
