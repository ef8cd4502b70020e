"""The clock of a run's stages."""

import time

from advgame.trainer.base.clock import SAMPLING, Clock, Stage


def test_stages_add_up_until_they_are_taken():
    clock = Clock()
    for stage in (Stage.ATTACK, Stage.SAVE, Stage.ATTACK):
        with clock(stage):
            assert clock.now[0] == stage
            time.sleep(0.01)
    assert clock.now is None
    assert clock.seconds(Stage.ATTACK) >= 0.02 and clock.seconds(Stage.DEFEND) == 0
    assert clock.seconds(*SAMPLING) == clock.seconds(Stage.ATTACK)
    taken = clock.take()
    assert list(taken["stages"]) == ["attacker writes", "saving"]
    assert taken["elapsed"] >= sum(taken["stages"].values()) >= 0.03
    assert clock.take()["stages"] == {}
