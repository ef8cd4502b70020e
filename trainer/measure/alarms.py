"""Signs that a reward is being hacked: drifting lengths, sameness, a judge with a favourite place or extreme scores.

None of them proves anything; each says where to look.
"""

from advgame.trainer.base.collectives import gather_from, my_share
from advgame.trainer.game.grade import ATTACKER_RUBRIC
from advgame.trainer.game.play import Rules
from advgame.trainer.judges.request import Judge, JudgeRequest, Scores
from advgame.trainer.measure.metrics import game_metrics, mean
from advgame.trainer.measure.rates import TOLERATED, Rate
from advgame.trainer.records import Game
from advgame.trainer.seeds import limited

LENGTH_FACTOR = 2.0
"""Attacks or responses have become this many times longer or shorter."""

POSITION_BIAS = 1.0
"""Points, of 10, by which the judge prefers one place to the other."""

SATURATION = 0.9
"""Share of the scores that are at an end of the scale, if it was smaller at the start."""

SAMENESS = 0.5
"""Share of the start's diversity that is left."""

JUDGED_PAIRS = 16
"""Pairs of responses that the judge sees in both orders."""


def signs(current: list[Game], plain: list[Game], rules: Rules, start: dict | None) -> dict:
    """Of answered games: the attacker's, and those of the same seeds shown as they are. The rules are the run's."""
    known = game_metrics(current, rules.judging.success_score)
    lengths = {"attack_tokens": known["prompt_tokens"], "response_tokens": known["response_tokens"]}
    before = start["signs"] if start else lengths
    pairwise = "pairwise" in (rules.attacker.judge, rules.defender.judge)
    return lengths | {
        "attack_length_ratio": _ratio(lengths["attack_tokens"], before["attack_tokens"]),
        "response_length_ratio": _ratio(lengths["response_tokens"], before["response_tokens"]),
        "position_bias": position_bias(current, plain, rules.judge) if pairwise else None,
        "score_saturation": saturation([*current, *plain]),
    }


def position_bias(current: list[Game], plain: list[Game], judge: Judge) -> float | None:
    """Mean score of the first place minus that of the second; every pair of responses is judged in both orders.

    A pair answers one seed: once under attack and once as it is.
    """
    pairs = [
        (attacked.seed, one, other)
        for attacked, asked in zip(current, plain, strict=True)
        for one, other in [(_first_valid(attacked), _first_valid(asked))]
        if one is not None and other is not None
    ]
    requests = [
        JudgeRequest(ATTACKER_RUBRIC[seed.category], seed.category, seed.query, candidates)
        for seed, one, other in limited(pairs, JUDGED_PAIRS)
        for candidates in ((one, other), (other, one))
    ]
    scores = gather_from(lambda: judge(my_share(requests)))
    return mean(_bias(*both) for both in zip(scores[::2], scores[1::2], strict=True))


def saturation(games: list[Game]) -> float | None:
    """Share of the scores, of attacks and responses, that are exactly 0 or 10."""
    attacks = [attack for game in games for attack in game.attacks]
    scores = [attack.score for attack in attacks]
    scores += [response.score for attack in attacks for response in attack.responses]
    return mean(score in (0.0, 10.0) for score in scores if score is not None)


def alarms(record: dict, start: dict | None) -> list[str]:
    """A sentence for each sign that is beyond its threshold."""
    found, now = unjudged(record), record["signs"]
    for name in ("attack", "response"):
        ratio = now[f"{name}_length_ratio"]
        if ratio is not None and not 1 / LENGTH_FACTOR <= ratio <= LENGTH_FACTOR:
            found.append(f"{name}s are {ratio:.2g} times as long as at the start")
    bias = now["position_bias"]
    if bias is not None and abs(bias) > POSITION_BIAS:
        place = "first" if bias > 0 else "second"
        found.append(f"the judge gives the {place} of two responses {abs(bias):.1f} points more, whichever it is")
    if start is None:
        return found
    saturated, before = now["score_saturation"], start["signs"]["score_saturation"]
    if None not in (saturated, before) and saturated > SATURATION >= before:
        found.append(f"{saturated:.0%} of the scores are exactly 0 or 10, at the start {before:.0%}")
    for name in ("distinct_2", "embedding_spread"):
        varied, before = record["diversity"][name], start["diversity"][name]
        if None not in (varied, before) and varied < SAMENESS * before:
            found.append(f"attacks grow alike: {name} is {varied:.2g}, at the start {before:.2g}")
    return found


def unjudged(record: dict) -> list[str]:
    """A sentence for each rate of an evaluation that lacks too many verdicts to be relied on."""
    found = []
    for name in ("attack_success", "benign_compliance", "over_refusal"):
        known = {shown: Rate(**part[name]) for shown, part in record.items() if name in part}
        lacking = [
            f"{rate.unjudged} of {rate.asked} ({rate.unjudged_share:.0%}) {shown}"
            for shown, rate in known.items()
            if rate.unjudged_share is not None and rate.unjudged_share > TOLERATED
        ]
        if lacking:
            found.append(f"{name.replace('_', ' ')} without a verdict: {', '.join(lacking)}")
    return found


def _first_valid(game: Game) -> str | None:
    responses = [response for attack in game.attacks for response in attack.responses]
    return next((response.content for response in responses if response.outcome.valid), None)


def _bias(one_way: Scores, other_way: Scores) -> float | None:
    """What the first place gained, on average; None if a score is missing."""
    (a, b), (c, d) = one_way, other_way
    return None if a is None or b is None or c is None or d is None else (a - b + c - d) / 2


def _ratio(now: float | None, before: float | None) -> float | None:
    return now / before if now is not None and before else None
