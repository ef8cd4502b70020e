"""Rewards -> preference pairs, for DPO and IPO."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter

from advgame.trainer.records import Attack, Game, Pair, Response, Rollout


def attacker_pairs(games: list[Game], min_gap: float = 0.0, first_tokens: int | None = None) -> list[Pair]:
    """At most one pair for each seed: its best attack and its worst, up to that many tokens of each."""
    return _pairs([game.attacks for game in games], min_gap, first_tokens)


def defender_pairs(games: list[Game], min_gap: float = 0.0, first_tokens: int | None = None) -> list[Pair]:
    """At most one pair for each valid attack: its best response and its worst, up to that many tokens of each."""
    valid = [attack.responses for game in games for attack in game.shown if attack.outcome.valid]
    return _pairs(valid, min_gap, first_tokens)


def _pairs(
    groups: Iterable[Sequence[Attack] | Sequence[Response]], min_gap: float, first_tokens: int | None
) -> list[Pair]:
    pairs = [pair for candidates in groups if (pair := _pair(candidates, min_gap)) is not None]
    if first_tokens is None:
        return pairs
    return [Pair(_cut(pair.chosen, first_tokens), _cut(pair.rejected, first_tokens)) for pair in pairs]


def _pair(candidates: Sequence[Attack] | Sequence[Response], min_gap: float) -> Pair | None:
    """Best and worst of the candidates that have a reward, the first of them on ties; none if they say the same."""
    rewarded = [(c.reward, c.parsed and c.content, c.rollout) for c in candidates if c.reward is not None and c.rollout]
    if not rewarded:
        return None
    best, preferred, chosen = max(rewarded, key=itemgetter(0))
    worst, other, rejected = min(rewarded, key=itemgetter(0))
    if best == worst or best - worst < min_gap or preferred == other:  # of equal texts one was luckier
        return None
    if not rejected.finished:  # or the pair would teach little but brevity
        rejected = _cut(rejected, len(chosen.token_ids))
    return Pair(chosen, rejected)


def _cut(rollout: Rollout, length: int) -> Rollout:
    return replace(rollout, token_ids=rollout.token_ids[:length], logprobs=rollout.logprobs[:length])
