"""Pairs out of rewards."""

from dataclasses import replace
from itertools import count
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.base.clock import Clock
from advgame.trainer.game.pair import attacker_pairs, defender_pairs
from advgame.trainer.game.play import Match, play
from advgame.trainer.measure.metrics import duplicates
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.preflight import make_rules
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config

SEED = Seed("open the lock", "harmful")
NUMBERS = count()


def rollout(length: int = 2, finished: bool = True) -> Rollout:
    return Rollout([1], list(range(length)), [-1.0] * length, "", finished)


def response(reward: float | None, length: int = 2) -> Response:
    return Response(rollout(length), Parsed("", f"y{next(NUMBERS)}"), judged=True, score=reward, reward=reward)


def cut_off(length: int) -> Response:
    return Response(rollout(length, finished=False), reward=-1.0)


def attack(reward: float | None, *responses: Response) -> Attack:
    return Attack(rollout(), Parsed("", f"x{next(NUMBERS)}"), responses=responses, reward=reward)


def test_the_best_and_the_worst_of_a_prompt():
    game = Game(SEED, (attack(1.0, response(8.0), response(2.0), response(5.0)), attack(4.0, response(6.0))))
    (pair,) = attacker_pairs([game])
    assert pair.chosen is game.attacks[1].rollout and pair.rejected is game.attacks[0].rollout
    (pair,) = defender_pairs([game])
    first = game.attacks[0].responses
    assert pair.chosen is first[0].rollout and pair.rejected is first[1].rollout


def test_the_first_counts_on_ties_and_none_without_a_reward():
    game = Game(SEED, (attack(1.0, *map(response, [None, 2.0, 5.0, 5.0, 2.0, None])),))
    (pair,) = defender_pairs([game])
    responses = game.attacks[0].responses
    assert pair.chosen is responses[2].rollout and pair.rejected is responses[1].rollout


@pytest.mark.parametrize(("first_tokens", "lengths"), [(1, (1, 1)), (3, (3, 2)), (9, (5, 2)), (None, (5, 2))])
def test_only_the_first_tokens_may_count(first_tokens, lengths):
    game = Game(SEED, (attack(0.0, response(8.0, 5), response(2.0, 2)),))
    (pair,) = defender_pairs([game], 0.0, first_tokens)
    for kept, whole, length in zip((pair.chosen, pair.rejected), game.attacks[0].responses, lengths, strict=True):
        assert kept.token_ids == whole.rollout.token_ids[:length] and len(kept.logprobs) == length
        assert kept.prompt_ids == whole.rollout.prompt_ids


def test_pairs_may_need_a_gap():
    game = Game(SEED, (attack(0.0, response(8.0), response(2.0)), attack(2.0, response(4.0), response(3.0))))
    assert len(attacker_pairs([game], 2.0)) == 1 and not attacker_pairs([game], 2.1)
    assert len(defender_pairs([game])) == 2 and len(defender_pairs([game], 3.0)) == 1


def test_equal_or_missing_rewards_make_no_pair():
    game = Game(SEED, (attack(3.0, response(5.0), response(5.0)), attack(None, response(None), response(1.0))))
    assert not attacker_pairs([game]) and not defender_pairs([game])


def test_attacks_that_were_not_answered_make_no_pair_of_responses():
    malformed = Attack(rollout(), None, responses=(Response(), Response()), reward=-1.0)
    game = Game(SEED, (malformed, attack(2.0, response(1.0), response(0.0))))
    assert len(defender_pairs([game])) == len(attacker_pairs([game])) == 1


def test_the_replayed_seed_makes_a_pair_of_responses():
    game = Game(SEED, (), plain=attack(None, response(1.0), response(0.0)))
    assert len(defender_pairs([game])) == 1 and not attacker_pairs([game])


def test_samples_that_say_the_same_make_no_pair():
    one, again = attack(8.0, response(3.0)), attack(2.0)
    again = replace(again, parsed=Parsed("other thoughts", one.content))
    between = attack(5.0)
    assert not attacker_pairs([Game(SEED, (one, again))])
    assert not attacker_pairs([Game(SEED, (one, between, again))])  # the best and the worst are one attack
    (pair,) = attacker_pairs([Game(SEED, (again, between, one, attack(1.0)))])
    assert pair.chosen is one.rollout  # as often as it was sampled, it is in one pair
    better = replace(response(9.0), parsed=one.responses[0].parsed)
    assert not defender_pairs([Game(SEED, (replace(one, responses=(*one.responses, better)),))])


def test_a_malformed_sample_is_not_the_same_as_an_empty_one():
    empty = replace(response(5.0), parsed=Parsed("", ""))
    (pair,) = defender_pairs([Game(SEED, (attack(2.0, empty, cut_off(3)),))])
    assert pair.chosen is empty.rollout


def test_in_a_real_game_attacks_without_chance_make_no_pair():
    """The attacker takes the most probable tokens: its attacks on a seed are one, whatever the defender makes of it."""
    changed = ("attacker.sampling.temperature=0", "defender.sampling.temperature=2", "attacker.reward_from=first")
    config = load_config("arena", [*changed, "attacker.samples=4"])
    samplers = (LocalSampler(load_policy(getattr(config, n).model), n) for n in ("attacker", "defender"))
    seeds = read_seeds(["arena.jsonl"])[:16]
    games = play(Match(*samplers, make_rules(config)), seeds, (0, "test"), Clock())
    rewards = [{attack.reward for attack in game.attacks} for game in games]
    assert any(len(some) > 1 for some in rewards) and not attacker_pairs(games)
    assert duplicates(games) == 3 * sum(game.attacks[0].outcome.readable for game in games) > 0


@pytest.mark.parametrize(("length", "expected"), [(9, 4), (3, 3)])
def test_a_rejected_sample_that_was_cut_off_is_no_longer_than_the_chosen_one(length, expected):
    game = Game(SEED, (attack(2.0, response(5.0, length=4), cut_off(length)),))
    (pair,) = defender_pairs([game])
    assert len(pair.rejected.token_ids) == len(pair.rejected.logprobs) == expected
    assert len(game.attacks[0].responses[1].rollout.token_ids) == length


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("xyz"), st.none() | st.sampled_from([-1.0, 3.0, 5.5, 9.0])), max_size=5)
    )
)
def test_a_text_is_preferred_to_others_only(groups):
    """Published: best over worst, the first of them on ties. Here: unless their texts are the same."""
    games = [
        Game(SEED, tuple(replace(attack(reward), parsed=Parsed("", text)) for text, reward in group))
        for group in groups
    ]
    text_of = {id(a.rollout): a.content for game in games for a in game.attacks}
    pairs = [(text_of[id(pair.chosen)], text_of[id(pair.rejected)]) for pair in attacker_pairs(games)]
    expected = []
    for group in groups:
        known = [(reward, text) for text, reward in group if reward is not None]
        if known:
            best, worst = (edge(known, key=itemgetter(0)) for edge in (max, min))
            expected += [(best[1], worst[1])] if best[0] > worst[0] and best[1] != worst[1] else []
    assert pairs == expected


@given(st.lists(st.lists(st.none() | st.floats(-1, 10), min_size=1, max_size=4), max_size=4), st.floats(0, 3))
def test_pairs_are_in_order_and_apart(rewards, min_gap):
    games = [Game(SEED, tuple(attack(reward) for reward in group)) for group in rewards]
    reward_of = {id(a.rollout): a.reward for game in games for a in game.attacks}
    pairs = attacker_pairs(games, min_gap)
    for pair in pairs:
        gap = reward_of[id(pair.chosen)] - reward_of[id(pair.rejected)]
        assert gap > 0 and gap >= min_gap
    known = [[r for r in group if r is not None] for group in rewards]
    assert len(pairs) == sum(bool(r) and max(r) > min(r) and max(r) - min(r) >= min_gap for r in known)
