"""Groups of completions and their advantages."""

from dataclasses import replace

import pytest

from advgame.trainer.game.group import advantages, attacker_groups, defender_groups, mean_reward
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed, Verdict


def rollout() -> Rollout:
    return Rollout([1], [2], [-1.0], "", True)


def response(reward: float | None) -> Response:
    return Response(rollout(), Parsed("", "x"), reward=reward)


def attack(reward: float | None, *rewards: float | None) -> Attack:
    return Attack(rollout(), Parsed("", "x"), responses=tuple(map(response, rewards)), reward=reward)


GAME = Game(
    Seed("open the lock", "harmful"),
    (attack(0.0, 8.0, 2.0), attack(1.0, 4.0, 6.0), Attack(rollout(), None, responses=(Response(),), reward=-1.0)),
)


def test_advantages_are_measured_from_the_mean_of_the_rewards_that_there_are():
    without = replace(GAME, attacks=(GAME.attacks[0], replace(GAME.attacks[1], reward=None), GAME.attacks[2]))
    (group,) = attacker_groups([without])
    assert group.advantages == pytest.approx((0.5, 0.5, -0.5)) and group.valid == (True, False, True)
    first, second = defender_groups([GAME])
    assert first.advantages + second.advantages == pytest.approx((3.0, -3.0, -1.0, 1.0))


def test_only_attacks_that_were_shown_have_groups_of_responses():
    unfaithful = replace(GAME.attacks[0], verdict=Verdict.UNFAITHFUL)
    plain = attack(None, 1.0, 2.0)
    groups = defender_groups([Game(GAME.seed, (unfaithful, GAME.attacks[2]), plain)])
    assert [group.rollouts for group in groups] == [tuple(r.rollout for r in plain.responses)]
    all_malformed = attack(2.0)
    all_malformed = replace(all_malformed, responses=(Response(rollout()), Response(rollout())))
    assert len(defender_groups([Game(GAME.seed, (all_malformed,))])) == 1  # it was shown, so it is learnt from


def test_nothing_has_a_mean_of_0():
    assert mean_reward([]) == mean_reward([None]) == 0.0
    assert advantages([None, 2.0], 1.0) == [-1.0, 1.0]
    assert attacker_groups([]) == defender_groups([]) == []
