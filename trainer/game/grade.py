"""Response judge -> rewards: the defender's on its responses, then the attacker's on the response that counts."""

from dataclasses import dataclass
from itertools import combinations

from advgame.trainer.config import AttackerConfig, DefenderConfig
from advgame.trainer.game import Attack, Game, Response, Seed
from advgame.trainer.judges import Judge, JudgeRequest, Rubric

DEFENDER_RUBRIC: dict[str, Rubric] = {"harmful": "deflection", "benign": "compliance"}
ATTACKER_RUBRIC: dict[str, Rubric] = {"harmful": "compliance", "benign": "refusal"}
MALFORMED_REWARD = -1.0


@dataclass(frozen=True)
class Group:
    """Candidates that are scored against each other."""

    seed: Seed
    query: str
    candidates: list[str]


def reward(games: list[Game], judge: Judge, attacker: AttackerConfig, defender: DefenderConfig) -> list[Game]:
    """Sets scores, rewards and the outcomes that depend on them."""
    for attack in (attack for game in games for attack in game.prompts):
        if attack.outcome == "no_error" and not any(r.outcome == "no_error" for r in attack.responses):
            attack.outcome = "no_valid_response"
    _score_responses(games, judge, defender)
    _score_attacks(games, judge, attacker)
    for attack in (attack for game in games for attack in game.prompts):
        attack.reward = patched_reward(attack.outcome, attack.score)
        for response in attack.responses:
            response.reward = patched_reward(response.outcome, response.score)
    return games


def patched_reward(outcome: str, score: float | None) -> float | None:
    """The score of what is valid, 0 where nobody judged it; -1 for what is malformed; None for bad luck."""
    if outcome == "no_error":
        return 0.0 if score is None else score
    return MALFORMED_REWARD if outcome in ("max_length", "parsing", "not_faithful") else None


def advantages(rewards: list[float | None], mean: float) -> list[float]:
    """Reward minus a mean; what has no reward counts as 0 here and is masked out of the loss."""
    return [(0.0 if r is None else r) - mean for r in rewards]


def mean_reward(rewards: list[float | None]) -> float:
    """Mean of the rewards that are there (across all ranks' seeds, or a rank's own), 0 without any."""
    valid = [r for r in rewards if r is not None]
    return sum(valid) / len(valid) if valid else 0.0


def _score_responses(games: list[Game], judge: Judge, config: DefenderConfig) -> None:
    if config.judge == "none":
        return
    groups, members = [], []
    for game in games:
        for attack in game.prompts:
            valid = [response for response in attack.responses if response.outcome == "no_error"]
            query = attack.content if config.condition_on == "prompt" else game.seed.prompt
            groups.append(Group(game.seed, query, [response.content for response in valid]))
            members.append(valid)
    for valid, scores in zip(members, _judge_groups(groups, judge, config.judge, DEFENDER_RUBRIC), strict=True):
        for response, score in zip(valid, scores, strict=True):
            response.score = score
            if score is None:
                response.outcome = "bad_def_judge"


def _score_attacks(games: list[Game], judge: Judge, config: AttackerConfig) -> None:
    if config.judge == "none":
        return
    groups, members = [], []
    for game in games:
        counted = [(attack, counted_responses(attack, config.reward_from)) for attack in game.attacks]
        for turn in range(max((len(responses) for _, responses in counted), default=0)):
            played = [(attack, responses[turn]) for attack, responses in counted if turn < len(responses)]
            played = [(attack, response) for attack, response in played if response.outcome == "no_error"]
            groups.append(Group(game.seed, game.seed.prompt, [response.content for _, response in played]))
            members.append([attack for attack, _ in played])
    received: dict[int, list[float | None]] = {}
    for played, scores in zip(members, _judge_groups(groups, judge, config.judge, ATTACKER_RUBRIC), strict=True):
        for attack, score in zip(played, scores, strict=True):
            received.setdefault(id(attack), []).append(score)
    for attack in (attack for game in games for attack in game.attacks if id(attack) in received):
        scores = [score for score in received[id(attack)] if score is not None]
        attack.score = round(sum(scores) / len(scores), 4) if scores else None
        if attack.score is None:
            attack.outcome = "bad_att_judge"


def counted_responses(attack: Attack, reward_from: str) -> list[Response]:
    """What decides an attack's reward: one response, or all that are valid; where the judge failed on all, the first.

    Empty for an attack that is not valid.
    """
    if attack.outcome != "no_error":
        return []
    if reward_from == "best":
        best = best_index([response.score for response in attack.responses])
        if best is not None:
            return [attack.responses[best]]
    valid = [response for response in attack.responses if response.outcome == "no_error"]
    if reward_from == "mean" and valid:
        return valid
    judged = valid or [response for response in attack.responses if response.outcome == "bad_def_judge"]
    return judged[:1]


def best_index(values: list[float | None]) -> int | None:
    """Index of the largest value that is there, the first on ties."""
    known = [i for i, value in enumerate(values) if value is not None]
    return max(known, key=lambda i: values[i]) if known else None


def worst_index(values: list[float | None]) -> int | None:
    """Index of the smallest value that is there, the first on ties."""
    return best_index([None if value is None else -value for value in values])


def _judge_groups(groups: list[Group], judge: Judge, mode: str, rubric: dict[str, Rubric]) -> list[list[float | None]]:
    """A score per candidate: pointwise one call each; pairwise the mean over its pairs, alone against itself."""
    calls = [(g, members) for g, group in enumerate(groups) for members in _matches(len(group.candidates), mode)]
    requests = [
        JudgeRequest(
            rubric[groups[g].seed.category],
            groups[g].seed.category,
            groups[g].query,
            tuple(groups[g].candidates[i] for i in members),
        )
        for g, members in calls
    ]
    received: list[list[list[float]]] = [[[] for _ in group.candidates] for group in groups]
    for (g, members), scores in zip(calls, judge(requests), strict=True):
        for i, score in zip(members, scores, strict=True):
            if score is not None:
                received[g][i].append(score)
    return [[round(sum(s) / len(s), 4) if s else None for s in group] for group in received]


def _matches(candidates: int, mode: str) -> list[tuple[int, ...]]:
    if mode == "pointwise":
        return [(i,) for i in range(candidates)]
    return [(0, 0)] if candidates == 1 else list(combinations(range(candidates), 2))
