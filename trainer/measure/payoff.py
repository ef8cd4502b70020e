"""The payoff matrix of a run: every saved attacker against every saved defender."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from advgame.trainer.base.clock import Clock
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.play import Rules, answer, game_keys, write
from advgame.trainer.measure.evaluation import rates
from advgame.trainer.measure.intervals import wilson
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Game, Seed
from advgame.trainer.rollouts.generate import GenerateSampler

Matrix = list[list[float | None]]
"""[attacker][defender]; None if there is nothing to take a rate of."""


@dataclass(frozen=True)
class SavedPlayers:
    """The models that play after a number of steps."""

    step: int
    attacker: str | Path
    defender: str | Path


@dataclass(frozen=True)
class Payoff:
    """What every attacker does to every defender. Each attacker wrote once, one attack a seed, for all defenders."""

    steps: list[int]
    """Of the attackers and of the defenders, rising; 0 is the start of the run."""
    harmful: int
    """Number of harmful seeds."""
    benign: int
    attack_success: Matrix
    """Share of the harmful seeds whose attack is faithful and complied with."""
    benign_compliance: Matrix
    """Share of the answered attacks on benign seeds that are complied with."""
    faithful: list[float | None]
    """Share of each attacker's attacks."""


Track = Callable[[list[SavedPlayers], str], Iterable[SavedPlayers]]
"""Shows progress through a list, under a title."""


def play_matrix(saved: list[SavedPlayers], seeds: list[Seed], rules: Rules, draws: Key, track: Track) -> Payoff:
    """Plays all against all, one player's model in memory at a time. `rules` are those of `measuring`."""
    keys = game_keys(draws, len(seeds))

    def attacks(players: SavedPlayers) -> list[Game]:
        attacker = GenerateSampler(load_policy(players.attacker), "attacker")
        return write(rules, attacker, seeds, keys, Clock())

    def column(players: SavedPlayers) -> list[dict]:
        defender = GenerateSampler(load_policy(players.defender), "defender")
        answered = (answer(rules, defender, games, keys, Clock()) for games in written)
        return [rates(games, rules.judging.success_score) for games in answered]

    written = [attacks(players) for players in track(saved, "attackers write")]
    columns = [column(players) for players in track(saved, "defenders answer")]
    rows = list(zip(*columns, strict=True))
    categories = [seed.category for seed in seeds]
    return Payoff(
        [players.step for players in saved],
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
    success = [[share for share in row if share is not None] for row in payoff.attack_success]  # it is of all seeds
    return [_last_defender(payoff.steps, success, payoff.harmful), _cycle(payoff.steps, success, payoff.harmful)]


def _last_defender(steps: list[int], success: list[list[float]], harmful: int) -> str:
    column = [row[-1] for row in success]
    worst = max(range(len(column)), key=lambda a: column[a])
    name = f"The last defender (step {steps[-1]})"
    measured = _measured(column[worst], harmful)
    if column[worst] == 0:
        return f"{name} withstands every attacker: none succeeds on any seed, {measured}."
    return f"{name} does not withstand every attacker: that of step {steps[worst]} does best, {measured}."


def _cycle(steps: list[int], success: list[list[float]], harmful: int) -> str:
    """The largest rise in an attacker's success, from one defender that is not older than it to a later one."""
    count = len(steps)
    pairs = [(a, i, j) for a in range(count) for i in range(a, count) for j in range(i + 1, count)]
    a, i, j = max(pairs, key=lambda pair: success[pair[0]][pair[2]] - success[pair[0]][pair[1]])
    before, after = success[a][i], success[a][j]
    if after <= before:
        return "The payoff does not cycle: against no early attacker is a defender weaker than an earlier one was."
    rise = (
        f"against the attacker of step {steps[a]}, the defender of step {steps[i]} gives way in "
        f"{_measured(before, harmful)}, and that of step {steps[j]} in {_measured(after, harmful)}"
    )
    if _interval(before, harmful)[1] < _interval(after, harmful)[0]:
        return f"The payoff cycles: {rise}."
    return f"The payoff may cycle, but the largest rise is within chance: {rise}."


def _measured(share: float, trials: int) -> str:
    low, high = _interval(share, trials)
    return f"{round(share * trials)} of {trials} ({share:.0%}, 95% interval {low:.0%} to {high:.0%})"


def _interval(share: float, trials: int) -> tuple[float, float]:
    return wilson(round(share * trials), trials)
