"""Measurements on the terminal, as tables and lines."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from advgame.trainer.base.text import one_line, printable
from advgame.trainer.measure.detection import detection_in
from advgame.trainer.measure.rates import Rate
from advgame.trainer.measure.redteam import RedTeaming
from advgame.trainer.report.labels import DIVERSITY, RATES, SHOWN, SIGNS
from advgame.trainer.report.matrices import Cells
from advgame.trainer.report.redteaming import headline, parts
from advgame.trainer.report.wording import figures, number, outcome, percent_of


def evaluation_text(title: str, record: dict) -> str:
    """A line for the title and one measure of diversity, and one for each thing that the defender was shown."""
    lines = [f"{title}: {DIVERSITY['self_bleu']} {number(record['diversity']['self_bleu'])}"]
    for shown, label in SHOWN.items():
        figures = measured(record[shown])
        known = ", ".join(f"{name} {figures[name]}" for name in figures if figures[name] != number(None))
        if known:
            lines.append(f"  {label}: {known}")
    return "\n".join(lines)


def samples_text(records: list[dict]) -> str:
    """What became of the same held-out seeds in these evaluations."""
    lines = []
    for sides in zip(*(record.get("samples", []) for record in records), strict=False):  # older ones have none
        lines.append(f"{sides[0]['category']} seed: {_shown(sides[0]['seed'])}")
        for record, side in zip(records, sides, strict=True):
            lines.append(f"  step {record['step']}: the attack {outcome(side['succeeded'])}")
            lines += [f"    {part}: {_shown(side[part])}" for part in ("attack", "response")]
    return "\n".join(lines)


def measured(part: dict) -> dict[str, str]:
    """What an evaluation says of harmful and benign requests together, by what the defender was shown."""
    labels = {name: RATES[name] for name in ("attack_success", "benign_compliance")}
    return figures(labels, {name: Rate(**part[name]) for name in labels}, detection_in(part))


def print_evaluation(record: dict, console: Console) -> None:
    """An evaluation, as `advgame evaluate` records it, beside that of the run's start; and its alarms."""
    now, start = record, record["start"]
    steps = record.get("mean_of", [record["step"]])
    heading = f"{'mean of steps' if len(steps) > 1 else 'step'} {', '.join(map(str, steps))}"
    table = Table("", "start", heading, title="held-out seeds, with 95% confidence intervals")
    for shown, label in SHOWN.items():
        table.add_row(Text(label, "bold"))
        before, after = measured(start[shown]), measured(now[shown])
        for name in after:
            table.add_row(f"  {name}", before[name], after[name])
        refused = (percent_of(Rate(**side[shown]["over_refusal"])) for side in (start, now))
        table.add_row(f"  {RATES['over_refusal']}", *refused)
    for part, labels in (("diversity", DIVERSITY), ("signs", SIGNS)):
        table.add_section()
        for key, label in labels.items():
            table.add_row(label, *(number(side[part][key]) for side in (start, now)))
    console.print(table)
    for alarm in record["alarms"]:
        console.print(Text(f"alarm: {alarm}", "yellow"), soft_wrap=True)


def print_matrix(title: str, matrix: Cells, steps: list[int], console: Console) -> None:
    """The table is as wide as it must be, so that no figure is cut."""
    table = Table(show_lines=True)
    table.add_column("step", justify="right", style="bold")
    for step in steps:
        table.add_column(str(step), justify="right")
    for step, row in zip(steps, matrix, strict=True):
        table.add_row(str(step), *(cell.text for cell in row))
    whole = Measurement.get(console, console.options.update(max_width=1_000_000), table).maximum
    console.width = max(console.width, whole)
    console.print(Text(f"{title}: attackers down, defenders across, by their step", "bold"), soft_wrap=True)
    console.print(table)


def print_redteaming(results: RedTeaming, console: Console) -> None:
    """One screen, unless the figures are split by a field."""
    console.print(Text(headline(results), style="bold"), soft_wrap=True)
    for part, told in parts(results).items():
        if results.by:
            console.print(Text(printable(part), style="bold"), soft_wrap=True)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for label, figure in told.items():
            table.add_row(label, figure)
        console.print(table)
    for found, count in results.outcomes.items():
        console.print(Text(f"{count:>6}  {found.told}"), soft_wrap=True)
    values = (f"{label} {number(results.diversity[name])}" for name, label in DIVERSITY.items())
    console.print(
        Text(f"diversity of the attacks (duplicates: {results.duplicates}): {', '.join(values)}"), soft_wrap=True
    )


def resources_text(summary: dict) -> str:
    """What a run took, one name and value per line."""
    return "\n".join(f"{name:<28}{value}" for name, value in resources_rows(summary))


def resources_rows(summary: dict) -> list[tuple[str, str]]:
    """What a run took (see measure/resources.summarise), as names and values."""
    rows = [(stage, f"{seconds:.1f} s") for stage, seconds in summary["stages"].items()]
    rows += [
        ("all", f"{summary['seconds']:.1f} s"),
        ("peak memory", f"{summary['peak_memory_gib']:.2f} GiB, of the first process"),
        *([("memory, first step", memory_text(summary["first_step"]))] if summary["first_step"] else []),
        ("sampled tokens", f"{summary['sampled_tokens']:,}"),
        ("trained tokens", f"{summary['trained_tokens']:,}"),
    ]
    for source, kwh in summary["kwh"].items():
        rows.append((f"energy, {source}", "not measured: no readable counter" if kwh is None else f"{kwh:.3g} kWh"))
    if summary["carbon_g"] is not None:
        sources = " and ".join(source for source, kwh in summary["kwh"].items() if kwh is not None)
        intensity = f"{summary['grid_intensity']:g} g per kWh"
        rows.append(("carbon", f"{summary['carbon_g']:.3g} g CO2e, of {sources}, at {intensity}"))
    return rows


def memory_text(found: dict) -> str:
    """A first step's peak memory beside its prediction, which is for samples as long as they may be."""
    return (
        f"{found['measured_memory_gib']:.2f} GiB at the peak, above the start; predicted "
        f"{found['predicted_memory_gib']:.2f} GiB, for samples of full length"
    )


def _shown(text: str) -> str:
    return printable(one_line(text)) or number(None)
