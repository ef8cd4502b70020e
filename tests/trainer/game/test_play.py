"""The stages of a game, played by real (tiny) models."""

from dataclasses import replace

import pytest
from helpers import tiny_config

from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.game.attack import read_attack
from advgame.trainer.game.check import check
from advgame.trainer.game.defend import defend, read_response
from advgame.trainer.game.play import Match, answer, game_keys, play, write
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed, Verdict
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.preflight import make_rules
from advgame.trainer.seeds import read_seeds

SEEDS = read_seeds(["tiny.jsonl"])[:6]


@pytest.fixture(scope="module")
def match(tmp_path_factory) -> Match:
    rules = make_rules(tiny_config(tmp_path_factory.mktemp("run")))
    return Match(*(LocalSampler(load_policy("tiny"), name) for name in ("attacker", "defender")), rules)


def test_every_seed_is_rewritten_and_every_attack_that_is_shown_is_answered(match):
    rules = match.rules
    games = play(match, SEEDS, (0, "test"), Clock())
    assert [game.seed for game in games] == SEEDS
    for game in games:
        assert len(game.attacks) == rules.attacker.samples
        prompts = {tuple(attack.rollout.prompt_ids) for attack in game.attacks}
        assert len(prompts) == 1
        for attack in game.attacks:
            assert len(attack.responses) == rules.defender.samples
            assert all((r.rollout is not None) == attack.outcome.shown for r in attack.responses)
    outcomes = {attack.outcome for game in games for attack in game.attacks}
    assert {"no_error", "parsing", "not_faithful"} <= outcomes


def test_games_are_a_function_of_their_keys(match):
    games = play(match, SEEDS, (0, "test"), Clock())
    assert play(match, SEEDS, (0, "test"), Clock()) == games
    assert play(match, SEEDS, (0, "other"), Clock()) != games
    assert play(match, SEEDS[:2], (0, "test"), Clock()) == games[:2]


def test_the_halves_make_the_whole(match):
    keys, clock = game_keys((0, "test"), len(SEEDS)), Clock()
    written = write(match.rules, match.attacker, SEEDS, keys, clock)
    assert all(not attack.responses for game in written for attack in game.attacks)
    games = answer(match.rules, match.defender, written, keys, clock)
    assert games == play(match, SEEDS, (0, "test"), Clock())
    assert all(clock.seconds(stage) > 0 for stage in (Stage.ATTACK, Stage.CHECK, Stage.DEFEND, Stage.GRADE))


def test_without_the_faithfulness_judge_nothing_is_unfaithful(match):
    rules = replace(match.rules, judging=replace(match.rules.judging, faithfulness=False))
    games = play(replace(match, rules=rules), SEEDS, (0, "test"), Clock())
    assert {attack.verdict for game in games for attack in game.attacks} == {Verdict.UNCHECKED}


def test_seeds_may_be_replayed(match):
    rules = replace(match.rules, defender=replace(match.rules.defender, replay_seeds=True))
    games = play(replace(match, rules=rules), SEEDS, (0, "test"), Clock())
    assert all(game.plain.content == game.seed.query and len(game.plain.responses) == 3 for game in games)
    plain = play(match, SEEDS, (0, "test"), Clock())
    assert [game.attacks for game in games] == [game.attacks for game in plain]  # the attacks' draws are their own


@pytest.mark.parametrize(("score", "verdict"), [(1.0, "faithful"), (0.0, "unfaithful"), (None, "missing")])
def test_readable_attacks_are_checked_and_no_others(score, verdict):
    rollout = Rollout([1], [2], [-1.0], "", True)
    game = Game(Seed("seed", "benign"), (Attack(rollout, None), Attack(rollout, Parsed("", "x"))))
    asked = []
    (checked,) = check([game], lambda requests: [asked.append(r) or (score,) for r in requests])
    assert [attack.verdict for attack in checked.attacks] == ["unchecked", verdict]
    assert [(r.rubric, r.query, r.candidates) for r in asked] == [("faithfulness", "seed", ("x",))]


def test_samples_that_are_cut_off_are_not_parsed():
    cut = Rollout([1], [2], [-1.0], "<prompt>x</prompt>", False)
    assert read_attack(cut, "prompt_only").outcome == "max_length"
    assert read_attack(replace(cut, finished=True), "prompt_only").content == "x"
    assert read_response(cut, "any").outcome == "max_length"
    assert read_response(None, "any") == Response()


def test_a_target_that_does_not_answer_leaves_no_response(match):
    class Silent:
        def sample(self, requests, sampling):
            return [None] * len(requests)

    game = Game(SEEDS[0], (Attack(None, Parsed("", "x")),))
    (answered,) = defend([game], [(0,)], Silent(), Prompts(), match.rules.defender)
    assert answered.attacks[0].outcome == "no_valid_response"
