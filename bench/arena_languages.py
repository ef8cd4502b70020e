"""Does what is learnt in one language hold in another? Players of the arena that know two, and play in the first.

    python bench/arena_languages.py               two warm starts, three games each: a quarter of an hour on one core

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

from advgame.trainer.judges.arena import judge_arena
from advgame.trainer.measure.evaluation import read_held_out
from advgame.trainer.models.load import quiet

CASES = {"answers of its own": False, "shared answers": True}
"""Of the second language; whether its answers are the first one's."""
LANGUAGES = ("played", "other")
TIMES = ("before", "after")
DRAWN = (
    "last attacker on first defender",
    "held-out attacks on last defender",
    "last attacker on last defender",
    "benign requests under the last attacker",
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


def in_languages(last: Players, first: Players, shared_answers: bool) -> dict[str, dict[str, float]]:
    held_out = read_held_out(arena().eval)
    return {
        "played": measure(last, first, judge_arena, held_out),
        "other": measure(last, first, second_judge(shared_answers), in_second(held_out)),
    }


def summary(results: list[dict]) -> dict[str, dict[str, list[float]]]:
    """ "case, language, time" -> measure -> [mean, standard deviation] over the seeds."""
    means = {}
    for case in dict.fromkeys(result["case"] for result in results):
        for language in LANGUAGES:
            for time in TIMES:
                runs = [result[language] for result in results if (result["case"], result["time"]) == (case, time)]
                means[f"{case}, {language}, {time}"] = {
                    name: [
                        statistics.mean(run[name] for run in runs),
                        statistics.stdev(run[name] for run in runs) if len(runs) > 1 else 0.0,
                    ]
                    for name in MEASURES
                }
    return means


def print_table(means: dict, seeds: int) -> None:
    table = Table(
        title=f"language of the game and the other, mean ± deviation over {seeds} seeds", title_justify="left"
    )
    table.add_column("", no_wrap=True)
    for name in MEASURES:
        table.add_column(name, justify="right")
    for row, values in means.items():
        spread = row.endswith("after")
        table.add_row(row, *(f"{m:.2f} ± {s:.2f}" if spread else f"{m:.2f}" for m, s in values.values()))
    Console(width=150).print(table)


def draw(means: dict, file: Path) -> None:
    """A row for each case; before and after in the language of the game, and in the other."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row.split(", ")[0] for row in means))
    figure = Figure(figsize=(15, 3.5 * len(cases)), layout="constrained")
    for row, case in zip(figure.subplots(len(cases), len(DRAWN), squeeze=False), cases, strict=True):
        for axes, name in zip(row, DRAWN, strict=True):
            for i, time in enumerate(TIMES):
                values = [means[f"{case}, {language}, {time}"][name] for language in LANGUAGES]
                heights, errors = zip(*values, strict=True)
                places = [place + 0.4 * i for place in range(len(LANGUAGES))]
                axes.bar(places, heights, 0.38, yerr=errors, capsize=4, label=time, color=f"C{i}")
            axes.set_xticks([place + 0.2 for place in range(len(LANGUAGES))], LANGUAGES)
            axes.set(ylim=(0, 1.05), ylabel=MEASURES[name])
            axes.set_title(f"{name}\n{case}", fontsize=9)
        row[0].legend()
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
