"""The authors' own numbers: files written by running the published code, read from ADVGAME_GOLDEN if it is set."""

import json
import os
from pathlib import Path

import pytest
import torch

from advgame.kernels import linear_policy_loss, linear_preference_loss
from advgame.kernels.formulas import preference_loss
from advgame.trainer.game.grade import grade
from advgame.trainer.game.group import advantages, mean_reward
from advgame.trainer.game.pair import attacker_pairs, defender_pairs
from advgame.trainer.judges.parsing import parse_pair, parse_score, parse_verdict
from advgame.trainer.prompts.formats import ATTACKER_FORMATS, DEFENDER_FORMATS, parse
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed, Verdict
from advgame.trainer.settings.schema import AttackerConfig, DefenderConfig

FOLDER = Path(os.environ.get("ADVGAME_GOLDEN") or Path(__file__).parent)


def vectors(name: str) -> list:
    cases = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert cases, f"{name}.json is empty"
    return [pytest.param(case, id=f"{name}-{i}") for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", vectors("output_parsing"))
def test_output_parsing(case):
    formats = ATTACKER_FORMATS if case["role"] == "attacker" else DEFENDER_FORMATS
    parsed = parse(formats[case["format"]], case["text"])
    expected = case["parsed"] and (case["parsed"]["think"], case["parsed"]["content"])
    assert (parsed and (parsed.think, parsed.content)) == expected


@pytest.mark.parametrize("case", vectors("judge_parsing"))
def test_judge_parsing(case):
    parsers = {"pairwise": parse_pair, "pointwise": parse_score, "faithfulness": parse_verdict}
    value = parsers[case["kind"]](case["text"])
    assert value == (tuple(case["value"]) if isinstance(case["value"], list) else case["value"])


def rollout(tokens: int, status: str, text: str) -> Rollout:
    return Rollout([], list(range(tokens)), [0.0] * tokens, text, status != "max_length")


def parsed(status: str, content: str) -> Parsed | None:
    return None if status in ("max_length", "parsing") else Parsed("", content)


VERDICTS = {"not_faithful": Verdict.UNFAITHFUL, "bad_faith_judge": Verdict.MISSING}


def build_games(case: dict) -> list[Game]:
    """The games of a case after the defender has answered and before any response is judged."""

    def build_response(status: str, tokens: int, content: str) -> Response:
        if status == "prompt_not_valid":
            return Response()
        return Response(rollout(tokens, status, content), parsed(status, content))

    def build_attack(b: int, a: int) -> Attack:
        status, name = case["prompt_status"][b][a], f"{b}.{a}"
        answers = zip(case["response_status"][b][a], case["response_tokens"][b][a], strict=True)
        return Attack(
            rollout(case["prompt_tokens"][b][a], status, f"x{name}"),
            parsed(status, f"x{name}"),
            VERDICTS.get(status, Verdict.FAITHFUL),
            tuple(build_response(*answer, f"y{name}.{d}") for d, answer in enumerate(answers)),
        )

    return [
        Game(Seed(f"s{b}", category), tuple(build_attack(b, a) for a in range(len(case["prompt_status"][b]))))
        for b, category in enumerate(case["category"])
    ]


class RecordedJudge:
    """Answers from the record, and insists on being asked just what was recorded."""

    def __init__(self, case: dict):
        # The defender is judged first, in one batch; then the attacker.
        players = [name for name in ("defender", "attacker") if case[f"{name}_judge"] != "none"]
        self.batches = [case[f"{name}_judgments"] for name in players]

    def __call__(self, requests):
        record = {}
        for j in self.batches.pop(0):
            record[(j["a"], j["b"]) if "b" in j else (j["a"],)] = tuple(j["scores"]) if "b" in j else (j["score"],)
        asked = [request.candidates for request in requests]
        assert sorted(asked) == sorted(record)
        return [record[candidates] for candidates in asked]


@pytest.mark.parametrize("case", vectors("game_scoring"))
def test_game_scoring(case):
    attacker = AttackerConfig(
        judge=case["attacker_judge"], reward_from="best" if case["optimistic_attacker"] else "first"
    )
    games = grade(build_games(case), RecordedJudge(case), attacker, DefenderConfig(judge=case["defender_judge"]))
    expected = case["expected"]

    assert [[a.outcome for a in g.attacks] for g in games] == expected["prompt_error"]
    assert [[[r.outcome for r in a.responses] for a in g.attacks] for g in games] == expected["response_error"]
    attack_rewards = [[a.reward for a in g.attacks] for g in games]
    response_rewards = [[[r.reward for r in a.responses] for a in g.attacks] for g in games]
    assert attack_rewards == expected["attacker_reward"]
    assert response_rewards == expected["defender_reward"]

    assert describe_attacker_pairs(games) == expected["attacker_pairs"]
    assert describe_defender_pairs(games) == expected["defender_pairs"]

    flat_attack = [r for game in attack_rewards for r in game]
    flat_response = [r for game in response_rewards for attack in game for r in attack]
    for scope in ("across_seeds", "per_rank"):  # the same in one process
        wanted = torch.tensor(expected["attacker_advantage"][scope]).flatten()
        assert torch.allclose(torch.tensor(advantages(flat_attack, mean_reward(flat_attack))), wanted, atol=1e-5)
        wanted = torch.tensor(expected["defender_advantage"][scope]).flatten()
        assert torch.allclose(torch.tensor(advantages(flat_response, mean_reward(flat_response))), wanted, atol=1e-5)


def index(candidates: tuple, wanted: Rollout) -> int:
    """The candidate whose rollout this is; it may have been cut."""
    rollouts = [candidate.rollout for candidate in candidates]
    (found,) = [i for i, rollout in enumerate(rollouts) if rollout.text == wanted.text]
    return found


def describe_attacker_pairs(games):
    described = []
    for b, game in enumerate(games):
        described += [
            {
                "seed": b,
                "chosen": index(game.attacks, pair.chosen),
                "rejected": index(game.attacks, pair.rejected),
                "chosen_tokens": len(pair.chosen.token_ids),
                "rejected_tokens": len(pair.rejected.token_ids),
            }
            for pair in attacker_pairs([game])
        ]
    return described


def describe_defender_pairs(games):
    described = []
    for b, game in enumerate(games):
        for a, attack in enumerate(game.attacks):
            described += [
                {
                    "seed": b,
                    "prompt": a,
                    "chosen": index(attack.responses, pair.chosen),
                    "rejected": index(attack.responses, pair.rejected),
                    "chosen_tokens": len(pair.chosen.token_ids),
                    "rejected_tokens": len(pair.rejected.token_ids),
                }
                for pair in defender_pairs([Game(game.seed, (attack,))])
            ]
    return described


@pytest.mark.parametrize("case", vectors("preference_losses"))
def test_preference_losses(case):
    chosen = torch.tensor(case["chosen_logp"], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor(case["rejected_logp"], dtype=torch.float64, requires_grad=True)
    reference_chosen = torch.tensor(case["reference_chosen_logp"], dtype=torch.float64)
    reference_rejected = torch.tensor(case["reference_rejected_logp"], dtype=torch.float64)
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    total = preference_loss(margin, case["loss"], case["beta"]).sum()
    total.backward()
    assert total.item() == pytest.approx(case["loss_sum"], rel=1e-10)
    assert chosen.grad.tolist() == pytest.approx(case["grad_chosen_logp"], rel=1e-10, abs=1e-14)
    assert rejected.grad.tolist() == pytest.approx(case["grad_rejected_logp"], rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("case", vectors("preference_losses"))
def test_preference_losses_through_a_head(case):
    """The same numbers out of linear_preference_loss: one token a sequence, whose logits give the log-probs."""
    logps = [x for pair in zip(case["chosen_logp"], case["rejected_logp"], strict=True) for x in pair]
    reference = zip(case["reference_chosen_logp"], case["reference_rejected_logp"], strict=True)
    # Two words: log-probs (p, log(1 - e^p)); with the identity as head, the logits are the hidden states.
    logps = torch.tensor(logps, dtype=torch.float64)
    hidden = torch.stack([logps, torch.log1p(-logps.exp())], dim=1)
    output = linear_preference_loss(
        hidden,
        torch.eye(2, dtype=torch.float64),
        torch.zeros(len(logps), dtype=torch.int64),
        torch.arange(len(logps) + 1, dtype=torch.int32),
        torch.tensor([x for pair in reference for x in pair], dtype=torch.float64),
        loss=case["loss"],
        beta=case["beta"],
    )
    pairs = len(case["chosen_logp"])
    assert output.loss.item() * pairs == pytest.approx(case["loss_sum"], rel=1e-10)
    assert output.sequence_logps.tolist() == pytest.approx(logps.tolist(), rel=1e-9)


@pytest.mark.parametrize("case", vectors("grpo_objective"))
def test_grpo_objective(case):
    real = torch.arange(len(case["logp"][0])) < torch.tensor(case["length"])[:, None]
    padded = torch.tensor(case["logp"], dtype=torch.float64, requires_grad=True)

    def tokens(rows):
        return torch.as_tensor(rows, dtype=torch.float64)[real]

    # Two words: the identity as head makes the logits the hidden states, whose softmax gives these log-probs.
    logps = padded[real]
    output = linear_policy_loss(
        torch.stack([logps, torch.log1p(-logps.exp())], dim=1),
        torch.eye(2, dtype=torch.float64),
        torch.zeros(len(logps), dtype=torch.int64),
        torch.tensor([0, *case["length"]]).cumsum(0).int(),
        torch.tensor(case["advantage"], dtype=torch.float64).flatten(),
        valid=torch.tensor(case["valid"]).flatten() > 0,
        sampling_logps=tokens(case["sampling_logp"]) if case["importance_sampling"] else None,
        reference_logps=tokens(case["reference_logp"]),
        importance_cap=case["importance_cap"],
        beta=case["beta"],
        normalization=case["normalization"],
    )
    loss = output.loss
    # The record holds the sum over the batch of the mean over its rollouts, or the plain sum over tokens.
    count = case["total_tokens"] if case["normalization"] == "token_mean" else case["batch"]
    (loss * count).backward()
    assert -loss.item() * count == pytest.approx(case["objective"], rel=1e-10, abs=1e-13)
    grad = torch.tensor(case["grad_logp_of_loss"], dtype=torch.float64)
    assert torch.allclose(padded.grad, grad, rtol=1e-10, atol=1e-14)
