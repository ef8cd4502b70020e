"""A prediction on the terminal: memory by parts, a step's work, traffic, time and energy, and what would cure it."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from advgame.trainer.estimate.memory import Parts
from advgame.trainer.estimate.predict import PLAYERS, Change, Prediction, worded


def print_prediction(
    prediction: Prediction, card: str, efficiency: float, cures: list[tuple[int, Change]], console: Console
) -> None:
    """cures: of a prediction that does not fit, the settings that would."""
    plan = prediction.plan
    engine = f"zero, stage {plan.zero.stage}, offload {plan.zero.offload}" if plan.sharded else "single"
    title = f"Predicted from shapes, not measured: {prediction.gpus} x {card}, engine {engine}"
    console.print(Text(title, "bold"), soft_wrap=True)
    console.print(memory_table(prediction))
    for line in verdict(prediction, cures):
        console.print(Text(line), soft_wrap=True)
    console.print(work_table(prediction))
    for line in times(prediction, efficiency):
        console.print(Text(line), soft_wrap=True)


def memory_table(prediction: Prediction) -> Table:
    """In GB, 10^9 bytes."""
    found = prediction.memory
    columns = [*PLAYERS, *([] if found.held.keys() <= set(PLAYERS) else ["both"])]
    table = _table("memory of a GPU, GB", *columns)
    _add_rows(table, "held all run long", [found.held.get(column, {}) for column in columns])
    for verb in ("samples", "plays in an evaluation", "learns"):
        parts = [found.moments.get(f"the {column} {verb}", {}) for column in columns]
        if any(parts):
            _add_rows(table, f"while it {verb}", parts)
    if found.host:
        _add_rows(table, "in the host's memory, a process", [{"waiting": found.host.get(c, 0.0)} for c in columns])
    return table


def verdict(prediction: Prediction, cures: list[tuple[int, Change]]) -> list[str]:
    found = prediction.memory
    what = f"peak {_giga(found.peak)} GB, when {found.peak_moment}, of {_giga(prediction.limit)} GB"
    if prediction.fits:
        return [f"{what}: fits"]
    if not cures:
        return [f"{what}: does not fit, and no settings are known by which it would"]
    ways = []
    for gpus, change in cures:
        ways.append(f"  would fit: {'' if gpus == prediction.gpus else f'--gpus {gpus} '}{worded(change)}".rstrip())
    return [f"{what}: does not fit", *ways]


def work_table(prediction: Prediction) -> Table:
    """Of a GPU; what is of a batch of rollouts is spread over its steps."""
    steps = prediction.plan.steps_per_batch
    works, sent = ([prediction.work[name] for name in PLAYERS], [prediction.traffic[name] for name in PLAYERS])
    table = _table("a GPU's step", *PLAYERS)
    table.add_row("sampling, TFLOP", *(f"{(of.prefill_flops + of.decode_flops) / steps / 1e12:.1f}" for of in works))
    table.add_row("learning, TFLOP", *(f"{of.learn_flops / 1e12:.1f}" for of in works))
    table.add_row(
        "sent to other GPUs, GB",
        *(_giga(of.gradients + of.weights + (of.refill + 2 * of.compared) / steps) for of in sent),
    )
    if prediction.memory.host:
        table.add_row("to the host and back, GB", *(_giga(of.host) for of in sent))
    return table


def times(prediction: Prediction, efficiency: float) -> list[str]:
    found = prediction.seconds
    if found is None:
        return ["No time is predicted for a processor."]
    return [
        f"a step at {efficiency:.0%} of the card's peaks, without the judge's time: {found.sampling:.1f} s sampling, "
        f"{found.learning:.1f} s learning,",
        f"{found.sending:.1f} s sending: {found.joint:.1f} s and {1000 * found.kwh:.1f} Wh on all GPUs. In turns "
        f"(schedule=sequential) a step of each player takes {found.sequential:.1f} s.",
    ]


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title, min_width=36)
    for column in columns:
        table.add_column(column, justify="right", min_width=8)
    return table


def _add_rows(table: Table, title: str, columns: list[Parts]) -> None:
    """A row for each part that any column has, and one for their sums."""
    table.add_row(title, *(_giga(sum(parts.values())) if parts else "" for parts in columns))
    for name in dict.fromkeys(name for parts in columns for name, size in parts.items() if size):
        table.add_row(f"  {name}", *(_giga(parts[name]) if parts.get(name) else "" for parts in columns))


def _giga(size: float) -> str:
    return f"{size / 1e9:.1f}"
