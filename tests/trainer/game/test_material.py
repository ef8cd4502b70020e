"""What the attacker learns from, of what was played."""

from itertools import count

import pytest
from helpers import tiny_config
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.base.clock import Clock
from advgame.trainer.game.grade import PENALTY
from advgame.trainer.game.group import attacker_groups
from advgame.trainer.game.material import attacks, for_attacker
from advgame.trainer.game.pair import attacker_pairs
from advgame.trainer.game.play import Match, play
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Attack, AttackOutcome, Game, Parsed, Response, Rollout, Seed, Verdict
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.preflight import make_rules
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.schema import AttackerConfig

SEED = Seed("open the lock", "harmful")
WELL_FORMED = AttackerConfig(learn_from_malformed=False)


@pytest.fixture(scope="module")
def games(tmp_path_factory) -> list[Game]:
    """Played by tiny models: most of their attacks are malformed."""
    rules = make_rules(tiny_config(tmp_path_factory.mktemp("run"), "defender.replay_seeds=true"))
    match = Match(*(LocalSampler(load_policy("tiny"), name) for name in ("attacker", "defender")), rules)
    return play(match, read_seeds(["tiny.jsonl"]), (0, "malformed"), Clock())


def check_left_out(games: list[Game]) -> None:
    kept = for_attacker(games, WELL_FORMED)
    malformed = [a for game in games for a in game.attacks if a.outcome in ("max_length", "parsing")]
    assert attacks(games) - attacks(kept) == len(malformed)
    assert [a for game in kept for a in game.attacks] == [
        a for game in games for a in game.attacks if a not in malformed
    ]
    learnt = [rollout for item in (*attacker_pairs(kept), *attacker_groups(kept)) for rollout in item.rollouts]
    assert learnt or not attacker_groups(kept)
    assert all(rollout not in [a.rollout for a in malformed] for rollout in learnt)


def test_without_malformed_attacks_it_learns_from_fewer(games):
    check_left_out(games)
    kept = for_attacker(games, WELL_FORMED)
    assert 0 < attacks(kept) < attacks(games)
    assert len(attacker_pairs(kept)) < len(attacker_pairs(games))
    assert any(attack.outcome == "not_faithful" for game in kept for attack in game.attacks)
    assert for_attacker(kept, WELL_FORMED) == kept


def test_it_may_learn_from_harmful_seeds_alone(games):
    harmful = [game for game in games if game.seed.category == "harmful"]
    assert for_attacker(games, AttackerConfig(learn_from_benign=False)) == harmful
    assert 0 < len(harmful) < len(games)
    neither = AttackerConfig(learn_from_benign=False, learn_from_malformed=False)
    assert for_attacker(games, neither) == for_attacker(harmful, WELL_FORMED)


def test_as_a_rule_it_learns_from_everything(games):
    assert for_attacker(games, AttackerConfig()) == games


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
    (game,) = for_attacker([Game(SEED, (malformed, malformed))], WELL_FORMED)
    assert game.attacks == ()
    assert attacker_groups([game]) == attacker_pairs([game]) == []
