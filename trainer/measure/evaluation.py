"""Players measured on held-out seeds: attackers, or attacks that somebody wrote, against a defender.

What is measured are rates: one attack on each seed and one response to it, each scored alone. The random draws are the
same in every evaluation, so that only the players differ.
"""

from dataclasses import asdict, dataclass, replace
from itertools import chain, islice

from advgame.trainer.base.clock import Clock
from advgame.trainer.base.collectives import gather_from, my_share
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.play import Match, Rules, answer, game_keys, write
from advgame.trainer.measure.alarms import alarms, signs
from advgame.trainer.measure.attempts import Attempt, attempts_of
from advgame.trainer.measure.detection import detect
from advgame.trainer.measure.diversity import diversity
from advgame.trainer.measure.metrics import different_texts, game_metrics
from advgame.trainer.measure.rates import of_category
from advgame.trainer.models.policy import Policy
from advgame.trainer.records import Game, Seed, written_attack
from advgame.trainer.rollouts.base import Sampler
from advgame.trainer.seeds import limited, read_attacks, read_seeds
from advgame.trainer.settings.schema import EvalConfig, SamplingConfig
from advgame.trainer.wrappings import read_wrappings, wrapped


@dataclass(frozen=True)
class HeldOut:
    """What players are measured on."""

    seeds: list[Seed]
    attacks: list[tuple[Seed, str]]
    """What somebody wrote, as (what is meant, the attack): from files, and the seeds in wrappings."""
    greedy: bool
    """The players take the most probable tokens."""


def read_held_out(config: EvalConfig) -> HeldOut:
    """Raises ConfigError that names the setting, or the file and the line of what is wrong."""
    seeds = limited(read_seeds(config.seeds, "eval.seeds"), config.limit)
    attacks = limited(read_attacks(config.attacks, "eval.attacks"), config.limit) if config.attacks else []
    wrappings = read_wrappings(config.wrappings, "eval.wrappings") if config.wrappings else []
    return HeldOut(seeds, [*attacks, *(wrapped(seeds, wrappings) if wrappings else ())], config.greedy)


def measuring(rules: Rules, greedy: bool) -> Rules:
    """The rules that rates are measured by: one attack, one response, each scored alone."""

    def sampling(config: SamplingConfig) -> SamplingConfig:
        return replace(config, temperature=0.0) if greedy else config

    attacker, defender = rules.attacker, rules.defender
    return replace(
        rules,
        attacker=replace(
            attacker, samples=1, judge="pointwise", reward_from="first", sampling=sampling(attacker.sampling)
        ),
        defender=replace(
            defender, samples=1, judge="pointwise", replay_seeds=False, sampling=sampling(defender.sampling)
        ),
    )


def attack_held_out(attacker: Sampler, rules: Rules, held_out: HeldOut, draws: Key) -> list[Game]:
    """What an attacker writes for the held-out seeds, not yet answered."""
    seeds, keys = my_share(held_out.seeds), my_share(game_keys(draws, len(held_out.seeds)))
    return gather_from(lambda: write(measuring(rules, held_out.greedy), attacker, seeds, keys, Clock()))


def evaluate(
    match: Match,
    held_out: HeldOut,
    attacks: dict[str, list[Game]],
    draws: Key,
    embedder: Policy,
    start: dict | None = None,
) -> dict:
    """Rates and detection under `attacks`, written ones and plain seeds; diversity; samples.

    attacks: `current` ones, of the match's attacker, and `initial` ones, of the attacker as it was at the start; not
    yet answered. The match has the run's rules. The embedder says how similar two attacks are (see `diversity`).
    `start` is the record of the run's start, which drift is measured from; None if this is it.
    """
    rules, success_score = match.rules, match.rules.judging.success_score
    shown = attacks | {"written": written(held_out.attacks), "plain": plain(held_out.seeds)}
    played = _answered(measuring(rules, held_out.greedy), match.defender, shown, draws)
    record = {
        name: measured_of(games, success_score) | asdict(detect(games, success_score, (*draws, "seeds")))
        for name, games in played.items()
    } | {
        "diversity": diversity(different_texts(played["current"]), embedder),
        "signs": signs(played["current"], played["plain"], rules, start),
        "samples": [asdict(sample) for sample in samples(played["written"] or played["current"], success_score)],
    }
    return record | {"alarms": alarms(record, start)}


def samples(games: list[Game], success_score: float) -> list[Attempt]:
    """A few for people to read: of two harmful seeds and a benign one, the same in every evaluation.

    Held-out attacks are the same, too, so that only the defender differs.
    """
    read = [*of_category(games, "harmful")[:2], *of_category(games, "benign")[:1]]
    return attempts_of(read, success_score)


def written(attacks: list[tuple[Seed, str]]) -> list[Game]:
    """Games whose attacks are given, as (what is meant, the attack), and not yet answered."""
    return [Game(seed, (written_attack(attack),)) for seed, attack in attacks]


def plain(seeds: list[Seed]) -> list[Game]:
    """Games in which every seed's query is shown as it is."""
    return written([(seed, seed.query) for seed in seeds])


def measured_of(games: list[Game], success_score: float) -> dict:
    """The part of the metrics of answered games that an evaluation keeps."""
    kept = ("attack_success", "benign_compliance", "over_refusal", "faithful", "parsed")
    known = game_metrics(games, success_score)
    return {name: known[name] for name in (*kept, "deflection_score", "compliance_score")}


def _answered(rules: Rules, defender: Sampler, shown: dict[str, list[Game]], draws: Key) -> dict[str, list[Game]]:
    """All at once, as a sampler is fastest with many; a list under two names once. Each process answers its share."""
    different = {id(games): games for games in shown.values()}
    games = list(chain.from_iterable(different.values()))
    keys = [key for games in different.values() for key in game_keys(draws, len(games))]
    rest = iter(gather_from(lambda: answer(rules, defender, my_share(games), my_share(keys), Clock())))
    answered = {same: list(islice(rest, len(games))) for same, games in different.items()}
    return {name: answered[id(games)] for name, games in shown.items()}
