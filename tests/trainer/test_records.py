"""Records: outcomes follow from the fields, in the order of the game, and games survive a round trip through JSON."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.records import (
    Attack,
    AttackOutcome,
    Game,
    Parsed,
    Response,
    ResponseOutcome,
    Rollout,
    Seed,
    Verdict,
    game_from_dict,
    written_attack,
)

DONE, CUT = (Rollout([1], [2, 3], [-0.5, -1.0], "text", finished, version=4) for finished in (True, False))
GOOD = Parsed("", "content")


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (Response(), "prompt_not_valid"),
        (Response(CUT), "max_length"),
        (Response(CUT, judged=True), "max_length"),
        (Response(DONE), "parsing"),
        (Response(DONE, GOOD), "no_error"),
        (Response(DONE, GOOD, judged=True), "bad_def_judge"),
        (Response(DONE, GOOD, judged=True, score=0.0), "no_error"),
    ],
)
def test_the_outcome_of_a_response(response, outcome):
    assert response.outcome == outcome
    assert response.outcome.readable == (outcome in ("no_error", "bad_def_judge"))
    assert response.outcome.penalised == (outcome in ("max_length", "parsing"))


@pytest.mark.parametrize(
    ("attack", "outcome"),
    [
        (Attack(CUT, None), "max_length"),
        (Attack(DONE, None), "parsing"),
        (Attack(DONE, GOOD), "no_error"),
        (Attack(DONE, GOOD, Verdict.FAITHFUL), "no_error"),
        (Attack(DONE, GOOD, Verdict.MISSING, (Response(),)), "bad_faith_judge"),
        (Attack(DONE, GOOD, Verdict.UNFAITHFUL, (Response(),)), "not_faithful"),
        (Attack(DONE, GOOD, responses=(Response(CUT), Response(DONE))), "no_valid_response"),
        (Attack(DONE, GOOD, responses=(Response(CUT), Response(DONE, GOOD, judged=True))), "no_error"),
        (Attack(DONE, GOOD, responses=(Response(DONE, GOOD),), judged=True), "bad_att_judge"),
        (Attack(DONE, GOOD, responses=(Response(DONE, GOOD),), judged=True, score=3.0), "no_error"),
        (written_attack("by hand"), "no_error"),
    ],
)
def test_the_outcome_of_an_attack(attack, outcome):
    assert attack.outcome == outcome and f"{attack.outcome}" == outcome
    assert attack.outcome.readable == (outcome not in ("max_length", "parsing"))
    assert attack.outcome.shown == (outcome in ("no_valid_response", "bad_att_judge", "no_error"))
    assert attack.outcome.penalised == (outcome in ("max_length", "parsing", "not_faithful"))


rollouts = st.builds(
    Rollout,
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.floats(-9, 0), max_size=3),
    st.text(max_size=5),
    st.booleans(),
    st.integers(0, 9),
)
parsed = st.none() | st.builds(Parsed, st.text(max_size=5), st.text(max_size=5))
scores = st.none() | st.floats(0, 10)
responses = st.builds(Response, st.none() | rollouts, parsed, st.booleans(), scores, scores)
attacks = st.builds(
    Attack, st.none() | rollouts, parsed, st.sampled_from(Verdict), st.lists(responses, max_size=2).map(tuple),
    st.booleans(), scores, scores,
)  # fmt: skip
seeds = st.builds(Seed, st.text(max_size=5), st.sampled_from(["harmful", "benign"]), st.just({"language": "de"}))
games = st.builds(Game, seeds, st.lists(attacks, max_size=2).map(tuple), st.none() | attacks)


@given(games)
def test_a_game_survives_a_round_trip_through_json(game):
    again = game_from_dict(json.loads(json.dumps(dataclasses.asdict(game))))
    assert again == game
    assert [a.outcome for a in again.shown] == [a.outcome for a in game.shown]


@given(attacks)
def test_every_attack_has_an_outcome_that_fits_its_properties(attack):
    assert isinstance(attack.outcome, AttackOutcome)
    assert not (attack.outcome.valid and not attack.outcome.shown)
    assert not (attack.outcome.shown and not attack.outcome.readable)
    assert not (attack.outcome.penalised and attack.outcome.shown)
    assert all(isinstance(response.outcome, ResponseOutcome) for response in attack.responses)


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Response(DONE, GOOD).score = 1.0
