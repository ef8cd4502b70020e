"""The payoff matrix of a run: every saved attacker against every saved defender."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from advgame.trainer import checkpoint
from advgame.trainer.config import Config, ConfigError, PlayerConfig
from advgame.trainer.evaluation import measuring, rates
from advgame.trainer.game import Game, Seed
from advgame.trainer.intervals import wilson
from advgame.trainer.judges import Judge
from advgame.trainer.models import load_policy
from advgame.trainer.play import answer, write
from advgame.trainer.prompts import Prompts

Matrix = list[list[float | None]]
"""[attacker][defender]; None where there is nothing to take a rate of."""


@dataclass(frozen=True)
class Payoff:
    """What every attacker does to every defender. Each attacker wrote once, one attack a seed, for all defenders."""

    steps: list[int]
    """Of the attackers and of the defenders, rising; 0 is what the run began with."""
    harmful: int
    benign: int
    attack_success: Matrix
    """Share of the harmful seeds whose attack is faithful and complied with."""
    benign_compliance: Matrix
    """Share of the answered attacks on benign seeds that are complied with."""
    faithful: list[float | None]
    """Of each attacker's attacks."""


def saved_steps(run: Path) -> list[int]:
    """What the run began with, and its checkpoints. Raises ConfigError where there are too few to compare."""
    saved = checkpoint.finished(run)
    if len(saved) < 2:
        raise ConfigError(
            f"{run}/checkpoints has {len(saved)} checkpoint(s), and crossplay needs 2 or more; the default "
            f"checkpoint.keep=2 drops older ones: train with a larger checkpoint.keep, and checkpoint.every to match"
        )
    return [0, *saved]


def play_matrix(
    run: Path,
    steps: list[int],
    seeds: list[Seed],
    judge: Judge,
    prompts: Prompts,
    config: Config,
    track: Callable[[list[int], str], "list[int]"] = lambda steps, _: steps,
) -> Payoff:
    """Plays them all. There is one player's model in memory at a time, besides the judge's."""
    played = measuring(config)

    def attacks(step: int) -> list[Game]:
        attacker = load_policy(_source(run, step, "attacker", config.attacker))
        return write(seeds, "crossplay", attacker, judge, prompts, played)

    def column(step: int) -> list[dict]:
        defender = load_policy(_source(run, step, "defender", config.defender))
        answered = (answer(copy.deepcopy(g), "crossplay", defender, judge, prompts, played) for g in games)
        return [rates(g, config.judge.success_score) for g in answered]

    games = [attacks(step) for step in track(steps, "attackers write")]
    columns = [column(step) for step in track(steps, "defenders answer")]
    rows = list(zip(*columns, strict=True))
    categories = [seed.category for seed in seeds]
    return Payoff(
        steps,
        categories.count("harmful"),
        categories.count("benign"),
        [[cell["attack_success"] for cell in row] for row in rows],
        [[cell["benign_compliance"] for cell in row] for row in rows],
        [row[0]["faithful"] for row in rows],
    )


def reading(payoff: Payoff) -> list[str]:
    """What the matrix says, in plain words."""
    if not payoff.harmful:
        return ["There are no harmful seeds: nothing can be said about attacks."]
    return [_last_defender(payoff), _cycle(payoff)]


def _last_defender(payoff: Payoff) -> str:
    column = [row[-1] for row in payoff.attack_success]
    worst = max(range(len(column)), key=lambda a: column[a])
    name = f"The last defender (step {payoff.steps[-1]})"
    measured = _measured(column[worst], payoff.harmful)
    if column[worst] == 0:
        return f"{name} withstands every attacker: none succeeds on any seed, {measured}."
    return f"{name} does not withstand every attacker: that of step {payoff.steps[worst]} does best, {measured}."


def _cycle(payoff: Payoff) -> str:
    """The largest rise in the success of an attacker from a defender, no younger than it, to a later one."""
    steps, success = payoff.steps, payoff.attack_success
    count = len(steps)
    pairs = [(a, i, j) for a in range(count) for i in range(a, count) for j in range(i + 1, count)]
    a, i, j = max(pairs, key=lambda pair: success[pair[0]][pair[2]] - success[pair[0]][pair[1]])
    before, after = success[a][i], success[a][j]
    if after <= before:
        return "The payoff does not cycle: against no early attacker is a defender weaker than an earlier one was."
    rise = (
        f"against the attacker of step {steps[a]}, the defender of step {steps[i]} gives way in "
        f"{_measured(before, payoff.harmful)}, and that of step {steps[j]} in {_measured(after, payoff.harmful)}"
    )
    if _interval(before, payoff.harmful)[1] < _interval(after, payoff.harmful)[0]:
        return f"The payoff cycles: {rise}."
    return f"The payoff may cycle, but the largest rise is within chance: {rise}."


def _measured(share: float, trials: int) -> str:
    low, high = _interval(share, trials)
    return f"{round(share * trials)} of {trials} ({share:.0%}, 95% interval {low:.0%} to {high:.0%})"


def _interval(share: float, trials: int) -> tuple[float, float]:
    return wilson(round(share * trials), trials)


def _source(run: Path, step: int, name: str, config: PlayerConfig) -> Path | str:
    """Where the player that samples was saved."""
    if step == 0:
        return config.model
    return checkpoint.folder(run, step) / (f"{name}_ema" if config.sample_from == "ema" else name)
