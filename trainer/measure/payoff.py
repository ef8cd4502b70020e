"""The payoff matrix of a run: every saved attacker against every saved defender."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from advgame.trainer.base.clock import Clock
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.play import Rules, answer, game_keys, write
from advgame.trainer.measure.intervals import wilson
from advgame.trainer.measure.rates import Rate, rates
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Game, Seed
from advgame.trainer.rollouts.local import LocalSampler

Matrix = list[list[Rate]]
"""[attacker][defender]."""


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
    """On harmful seeds."""
    benign_compliance: Matrix
    """Under the attacks on benign seeds."""
    faithful: list[Rate]
    """Of each attacker's attacks."""


Track = Callable[[list[SavedPlayers], str], Iterable[SavedPlayers]]
"""Shows progress through a list, under a title."""


def play_matrix(saved: list[SavedPlayers], seeds: list[Seed], rules: Rules, draws: Key, track: Track) -> Payoff:
    """Plays all against all, one player's model in memory at a time. `rules` are those of `measuring`."""
    keys = game_keys(draws, len(seeds))

    def attacks(players: SavedPlayers) -> list[Game]:
        attacker = LocalSampler(load_policy(players.attacker), "attacker", rules.attacker.sampling.precision).freeze()
        return write(rules, attacker, seeds, keys, Clock())

    def column(players: SavedPlayers) -> list[dict[str, Rate]]:
        defender = LocalSampler(load_policy(players.defender), "defender", rules.defender.sampling.precision).freeze()
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
    success = payoff.attack_success
    return [_last_defender(payoff.steps, success), _cycle(payoff.steps, success), *_unjudged(success)]


def _last_defender(steps: list[int], success: Matrix) -> str:
    name = f"The last defender (step {steps[-1]})"
    column = [(row[-1], step) for row, step in zip(success, steps, strict=True)]
    known = [(rate, step) for rate, step in column if rate.share is not None]
    if not known:
        return f"{name}: nothing is known, no attack on it has a verdict."
    worst, step = max(known, key=lambda each: _share(each[0]))
    if worst.successes:
        return f"{name} does not withstand every attacker: that of step {step} does best, {_measured(worst)}."
    if any(rate.unjudged for rate, _ in column):
        return f"{name}: no judged attack succeeds, {_measured(worst)}, but not all attacks on it have a verdict."
    return f"{name} withstands every attacker: none succeeds on any seed, {_measured(worst)}."


def _cycle(steps: list[int], success: Matrix) -> str:
    """The largest rise in an attacker's success, from one defender that is not older than it to a later one."""
    count = len(steps)
    pairs = [
        (row[i], row[j], (steps[a], steps[i], steps[j]))
        for a, row in enumerate(success)
        for i in range(a, count)
        for j in range(i + 1, count)
        if row[i].share is not None and row[j].share is not None
    ]
    if not pairs:
        return "Whether the payoff cycles is not known: too few attacks have a verdict."
    before, after, (attacker, earlier, later) = max(pairs, key=lambda pair: _share(pair[1]) - _share(pair[0]))
    if _share(after) <= _share(before):
        return "The payoff does not cycle: against no early attacker is a defender weaker than an earlier one was."
    rise = (
        f"against the attacker of step {attacker}, the defender of step {earlier} gives way in "
        f"{_measured(before)}, and that of step {later} in {_measured(after)}"
    )
    if wilson(before.successes, before.trials)[1] < wilson(after.successes, after.trials)[0]:
        return f"The payoff cycles: {rise}."
    return f"The payoff may cycle, but the largest rise is within chance: {rise}."


def _share(rate: Rate) -> float:
    """Of a rate that is known."""
    return rate.successes / rate.trials


def _unjudged(success: Matrix) -> list[str]:
    """A sentence, if verdicts are missing."""
    cells = [rate for row in success for rate in row]
    missing, asked = sum(rate.unjudged for rate in cells), sum(rate.asked for rate in cells)
    if not missing:
        return []
    return [
        f"{missing} of {asked} attacks on harmful seeds ({missing / asked:.0%}) have no verdict and are not counted."
    ]


def _measured(rate: Rate) -> str:
    return f"{rate.successes} of {rate.trials} ({rate.share:.0%}, 95% interval {rate.low:.0%} to {rate.high:.0%})"
