"""Attacks -> verdicts: the judge says whether each keeps the meaning of its seed. Those that do not are not shown."""

from dataclasses import replace

from advgame.trainer.judges.request import Judge, JudgeRequest
from advgame.trainer.records import Attack, Game, Verdict


def check(games: list[Game], judge: Judge) -> list[Game]:
    """The games, with the verdict of each readable attack."""
    requests = [
        JudgeRequest("faithfulness", game.seed.category, game.seed.query, (attack.content,))
        for game in games
        for attack in game.attacks
        if attack.outcome.readable
    ]
    scores = iter(judge(requests))

    def checked(attack: Attack) -> Attack:
        return replace(attack, verdict=_verdict(*next(scores))) if attack.outcome.readable else attack

    return [replace(game, attacks=tuple(map(checked, game.attacks))) for game in games]


def _verdict(score: float | None) -> Verdict:
    if score is None:
        return Verdict.MISSING
    return Verdict.FAITHFUL if score else Verdict.UNFAITHFUL
