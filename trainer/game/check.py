"""Faithfulness judge: attacks that do not keep the meaning of their seed are put aside."""

from advgame.trainer.game import Game
from advgame.trainer.judges import Judge, JudgeRequest


def judge_faithfulness(games: list[Game], judge: Judge) -> list[Game]:
    """Sets the outcome of valid attacks to not_faithful, or bad_faith_judge where there is no verdict."""
    judged = [(game.seed, attack) for game in games for attack in game.attacks if attack.outcome == "no_error"]
    requests = [JudgeRequest("faithfulness", seed.category, seed.prompt, (attack.content,)) for seed, attack in judged]
    for (_, attack), (verdict,) in zip(judged, judge(requests), strict=True):
        if verdict is None:
            attack.outcome = "bad_faith_judge"
        elif not verdict:
            attack.outcome = "not_faithful"
    return games
