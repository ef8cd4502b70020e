"""What is left of games without their malformed attacks."""

from itertools import count

import pytest
from helpers import tiny_config
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.base.clock import Clock
from advgame.trainer.game.grade import PENALTY
from advgame.trainer.game.group import attacker_groups, defender_groups
from advgame.trainer.game.malformed import leave_out_malformed
from advgame.trainer.game.pair import attacker_pairs, defender_pairs
from advgame.trainer.game.play import Match, play
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Attack, AttackOutcome, Game, Parsed, Response, Rollout, Seed, Verdict
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.preflight import make_rules
from advgame.trainer.seeds import read_seeds

SEED = Seed("open the lock", "harmful")


@pytest.fixture(scope="module")
def games(tmp_path_factory) -> list[Game]:
    """Played by tiny models: most of their attacks are malformed."""
    rules = make_rules(tiny_config(tmp_path_factory.mktemp("run"), "defender.replay_seeds=true"))
    match = Match(*(LocalSampler(load_policy("tiny"), name) for name in ("attacker", "defender")), rules)
    return play(match, read_seeds(["tiny.jsonl"]), (0, "malformed"), Clock())


def check_left_out(games: list[Game]) -> None:
    kept, left_out = leave_out_malformed(games)
    malformed = [a for game in games for a in game.attacks if a.outcome in ("max_length", "parsing")]
    assert left_out == len(malformed)
    assert [a for game in kept for a in game.attacks] == [
        a for game in games for a in game.attacks if a not in malformed
    ]
    assert defender_pairs(kept) == defender_pairs(games) and defender_groups(kept) == defender_groups(games)
    learnt = [rollout for item in (*attacker_pairs(kept), *attacker_groups(kept)) for rollout in item.rollouts]
    assert learnt or not attacker_groups(kept)
    assert all(rollout not in [a.rollout for a in malformed] for rollout in learnt)


def test_of_a_real_game_the_attacker_learns_less_and_the_defender_the_same(games):
    check_left_out(games)
    kept, left_out = leave_out_malformed(games)
    assert 0 < left_out < sum(len(game.attacks) for game in games)
    assert len(attacker_pairs(kept)) < len(attacker_pairs(games))
    assert any(attack.outcome == "not_faithful" for game in kept for attack in game.attacks)
    assert leave_out_malformed(kept) == (kept, 0)


def made_up(number: int, outcome: AttackOutcome, scores: list[float]) -> Attack:
    """With a rollout of its own, and the reward of its outcome."""
    rollout = Rollout([1], [number], [-1.0], "", outcome is not AttackOutcome.MAX_LENGTH)
    parsed = Parsed("", str(number)) if outcome.readable else None
    verdict = Verdict.UNFAITHFUL if outcome is AttackOutcome.NOT_FAITHFUL else Verdict.UNCHECKED
    if outcome.penalised:
        return Attack(rollout, parsed, verdict, (Response(),), reward=PENALTY)
    responses = [
        Response(Rollout([2], [d], [-1.0], "", True), Parsed("", str(d)), True, s, s) for d, s in enumerate(scores)
    ]
    return Attack(rollout, parsed, verdict, tuple(responses), True, scores[0], scores[0])


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([AttackOutcome(o) for o in ("max_length", "parsing", "not_faithful", "no_error")]),
                st.lists(st.floats(0, 10), min_size=1, max_size=3),
            ),
            max_size=4,
        ),
        max_size=3,
    )
)
def test_whatever_the_attacks_are(groups):
    numbers = count()
    check_left_out([Game(SEED, tuple(made_up(next(numbers), *attack) for attack in group)) for group in groups])


def test_a_seed_of_malformed_attacks_alone_has_no_group():
    malformed = Attack(Rollout([1], [2], [-1.0], "", False), None, reward=PENALTY)
    (game,), left_out = leave_out_malformed([Game(SEED, (malformed, malformed))])
    assert (game.attacks, left_out) == ((), 2)
    assert attacker_groups([game]) == attacker_pairs([game]) == []
