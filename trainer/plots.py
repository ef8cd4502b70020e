"""Learning curves, as a PNG."""

from pathlib import Path

CURVES = (
    ("rewards", (("game", "attacker_reward", "attacker"), ("game", "defender_reward", "defender"))),
    (
        "attack success, benign compliance",
        (("game", "attack_success", "attack success"), ("game", "benign_compliance", "benign compliance")),
    ),
    ("share of attacks", (("game", "parsed", "parsed"), ("game", "faithful", "faithful, if parsed"))),
    ("loss", (("attacker", "loss", "attacker"), ("defender", "loss", "defender"))),
    ("pair accuracy", (("attacker", "accuracy", "attacker"), ("defender", "accuracy", "defender"))),
    (
        "tokens per sample",
        (("game", "prompt_tokens", "attacker"), ("game", "response_tokens", "defender")),
    ),
)


def draw_curves(records: list[dict], file: Path) -> bool:
    """Draws the metrics of every step into `file`; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(13, 7), layout="constrained")
    for place, (title, lines) in enumerate(CURVES, start=1):
        axes = figure.add_subplot(2, 3, place)
        for section, key, label in lines:
            points = [(r["step"], r[section].get(key)) for r in records if r[section].get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(file, dpi=120)
    return True
