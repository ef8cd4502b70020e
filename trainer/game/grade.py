"""Responses -> scores and rewards: the defender's for its responses, the attacker's for the response that counts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from operator import itemgetter

from advgame.trainer.judges.request import Judge, JudgeRequest, Rubric
from advgame.trainer.records import Attack, AttackOutcome, Category, Game, Response, ResponseOutcome, Seed
from advgame.trainer.settings.schema import AttackerConfig, DefenderConfig

DEFENDER_RUBRIC: dict[Category, Rubric] = {"harmful": "deflection", "benign": "compliance"}
ATTACKER_RUBRIC: dict[Category, Rubric] = {"harmful": "compliance", "benign": "refusal"}
PENALTY = -1.0
"""The reward of what is malformed or unfaithful."""


@dataclass(frozen=True)
class Candidates:
    """Texts that are scored against each other."""

    seed: Seed
    query: str
    texts: list[str]


def grade(games: list[Game], judge: Judge, attacker: AttackerConfig, defender: DefenderConfig) -> list[Game]:
    """The games with all scores and rewards."""
    if defender.judge != "none":
        games = _score_responses(games, judge, defender)
    if attacker.judge != "none":
        games = _score_attacks(games, judge, attacker)
    return [
        replace(game, attacks=tuple(map(_rewarded, game.attacks)), plain=game.plain and _rewarded(game.plain))
        for game in games
    ]


def patched_reward(outcome: AttackOutcome | ResponseOutcome, score: float | None) -> float | None:
    """The score of a valid sample, or 0 if nobody judged it; a penalty if its player is to blame; else None."""
    if outcome.valid:
        return 0.0 if score is None else score
    return PENALTY if outcome.penalised else None


def counted_responses(attack: Attack, reward_from: str) -> list[Response]:
    """The responses that decide a valid attack's reward: one, or all valid ones; none for other attacks.

    If the judge failed on all of them it is the first, which then has no score either.
    """
    if not attack.outcome.valid:
        return []
    scored = [(response.score, response) for response in attack.responses if response.score is not None]
    if reward_from == "best" and scored:
        return [max(scored, key=itemgetter(0))[1]]
    valid = [response for response in attack.responses if response.outcome.valid]
    if reward_from == "mean" and valid:
        return valid
    return (valid or [response for response in attack.responses if response.outcome.readable])[:1]


def _score_responses(games: list[Game], judge: Judge, config: DefenderConfig) -> list[Game]:
    asked = [
        Candidates(
            game.seed,
            attack.content if config.condition_on == "prompt" else game.seed.query,
            [response.content for response in attack.responses if response.outcome.readable],
        )
        for game in games
        for attack in game.shown
    ]
    scores = iter([score for group in _judge(asked, judge, config.judge, DEFENDER_RUBRIC) for score in group])

    def scored(attack: Attack) -> Attack:
        return replace(attack, responses=tuple(_scored_response(response, scores) for response in attack.responses))

    return [
        replace(game, attacks=tuple(map(scored, game.attacks)), plain=game.plain and scored(game.plain))
        for game in games
    ]


def _scored_response(response: Response, scores: Iterator[float | None]) -> Response:
    return replace(response, judged=True, score=next(scores)) if response.outcome.readable else response


def _score_attacks(games: list[Game], judge: Judge, config: AttackerConfig) -> list[Game]:
    """A seed's attacks compete by their first counted responses, then by their second ones, and so on."""
    asked: list[Candidates] = []
    competitors: list[list[tuple[int, int]]] = []  # (game, attack) of each candidate
    for g, game in enumerate(games):
        counted = [counted_responses(attack, config.reward_from) for attack in game.attacks]
        for turn in range(max(map(len, counted), default=0)):
            playing = [a for a, responses in enumerate(counted) if turn < len(responses)]
            playing = [a for a in playing if counted[a][turn].outcome.valid]
            asked.append(Candidates(game.seed, game.seed.query, [counted[a][turn].content for a in playing]))
            competitors.append([(g, a) for a in playing])
    received: dict[tuple[int, int], list[float | None]] = {}
    for places, scores in zip(competitors, _judge(asked, judge, config.judge, ATTACKER_RUBRIC), strict=True):
        for place, score in zip(places, scores, strict=True):
            received.setdefault(place, []).append(score)

    def scored(attack: Attack, place: tuple[int, int]) -> Attack:
        return replace(attack, judged=True, score=_mean(received[place])) if place in received else attack

    return [
        replace(game, attacks=tuple(scored(attack, (g, a)) for a, attack in enumerate(game.attacks)))
        for g, game in enumerate(games)
    ]


def _rewarded(attack: Attack) -> Attack:
    responses = tuple(replace(r, reward=patched_reward(r.outcome, r.score)) for r in attack.responses)
    return replace(attack, responses=responses, reward=patched_reward(attack.outcome, attack.score))


def _judge(
    asked: list[Candidates], judge: Judge, mode: str, rubric: dict[Category, Rubric]
) -> list[list[float | None]]:
    """A score for each candidate: from a call of its own (pointwise), or the mean over its pairs (pairwise)."""
    calls = [(c, members) for c, group in enumerate(asked) for members in _calls(len(group.texts), mode)]
    requests = [
        JudgeRequest(
            rubric[asked[c].seed.category],
            asked[c].seed.category,
            asked[c].query,
            tuple(asked[c].texts[i] for i in members),
        )
        for c, members in calls
    ]
    received: list[list[list[float | None]]] = [[[] for _ in group.texts] for group in asked]
    for (c, members), scores in zip(calls, judge(requests), strict=True):
        for i, score in zip(members, scores, strict=True):
            received[c][i].append(score)
    return [[_mean(scores) for scores in group] for group in received]


def _calls(candidates: int, mode: str) -> list[tuple[int, ...]]:
    """The candidates of each call; pairwise, a lone one is judged against itself."""
    if mode == "pointwise":
        return [(i,) for i in range(candidates)]
    return [(0, 0)] if candidates == 1 else list(combinations(range(candidates), 2))


def _mean(scores: list[float | None]) -> float | None:
    """Mean of the scores that are not None, rounded to 4 places."""
    known = [score for score in scores if score is not None]
    return round(sum(known) / len(known), 4) if known else None
