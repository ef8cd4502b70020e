"""Transcripts: whole games, and nothing in them that steers a terminal."""

from advgame.trainer.base.text import printable
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed, Verdict, written_attack
from advgame.trainer.report.transcripts import write_transcript


def test_model_text_cannot_steer_the_terminal(tmp_path):
    hostile = "\x1b[2J\x1b]0;owned\x07 a\u202eb \r end"
    assert printable(hostile) == "\\x1b[2J\\x1b]0;owned\\x07 a\\u202eb \\r end"
    words = "می\u200cخواهم क्\u200dष\u3000日本\u00a0! a\tb"
    assert printable(words) == words
    rollout, parsed = Rollout([1], [1], [0.0], hostile, True), Parsed("", hostile)
    game = Game(Seed(hostile, "benign"), (Attack(rollout, parsed, responses=(Response(rollout, parsed),)),))
    write_transcript(tmp_path / "samples.txt", [game])
    text = (tmp_path / "samples.txt").read_bytes()
    assert b"\x1b" not in text and b"\r" not in text and text.count(b"owned") == 3


def test_a_transcript_says_what_became_of_everything(tmp_path):
    def rollout(text: str) -> Rollout:
        return Rollout([1], [1], [], text, True)

    answer = Response(rollout("one\ntwo"), Parsed("", "two"), reward=7.5)
    attacks = (
        Attack(rollout("<prompt>ask</prompt>"), Parsed("", "ask"), responses=(answer,), reward=2.0),
        Attack(rollout("other"), Parsed("", "other"), Verdict.UNFAITHFUL, (Response(),), reward=-1.0),
    )
    plain = Attack(None, written_attack("a seed").parsed, responses=(Response(rollout("no"), reward=None),))
    write_transcript(tmp_path / "new" / "samples.txt", [Game(Seed("a seed", "harmful"), attacks, plain)] * 2)
    game = """=== harmful seed: a seed

  attack 1: reward 2
      <prompt>ask</prompt>
    response 1: reward 7.5
        one
        two

  attack 2: not_faithful, reward -1
      other

  as it is:
    response 1: parsing, reward none
        no"""
    assert (tmp_path / "new" / "samples.txt").read_text() == f"{game}\n\n{game}\n"
