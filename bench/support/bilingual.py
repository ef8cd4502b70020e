"""Players of the arena that were taught two languages, and what they are measured by in the second."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from advgame.trainer.arena.language import vocabulary
from advgame.trainer.base.files import adding_folder
from advgame.trainer.judges.arena import judge_arena
from advgame.trainer.judges.request import Judge, JudgeRequest, Scores
from advgame.trainer.measure.evaluation import HeldOut
from advgame.trainer.models.built.arena import Example, attacker_example, build_player, defender_example
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Seed
from support.arena import Players
from support.translation import translate, translate_back

ATTACKER_STEPS, DEFENDER_STEPS = 1200, 2000
"""Twice the arena's: of each language, players see as much as those of one language do."""
MakeExample = Callable[[random.Random], Example]


def bilingual_players(folder: Path, shared_answers: bool) -> Players:
    """Players kept in `folder`, taught as the arena's are, each example in either language.

    shared_answers: who asks in the second language is answered in the first.
    """
    prompts = Prompts("arena")

    def attack(rng: random.Random) -> Example:
        return attacker_example(prompts, rng)

    def answer(rng: random.Random) -> Example:
        return defender_example(prompts, rng)

    name = "defender-shared-answers" if shared_answers else "defender"
    defend = in_either(answer, (lambda text: text) if shared_answers else translate)
    return Players(
        _built(folder / "attacker", in_either(attack, translate), ATTACKER_STEPS),
        _built(folder / name, defend, DEFENDER_STEPS),
    )


def in_either(make_example: MakeExample, translate_said: Callable[[str], str]) -> MakeExample:
    """Examples of which half are in the second language."""

    def make(rng: random.Random) -> Example:
        told, said = make_example(rng)
        return (told, said) if rng.random() < 0.5 else (translate(told), translate_said(said))

    return make


def second_judge(shared_answers: bool) -> Judge:
    """The arena's judge, for prompts of the second language."""

    def translated_back(request: JudgeRequest) -> JudgeRequest:
        stay = shared_answers and request.rubric != "faithfulness"
        candidates = request.candidates if stay else tuple(map(translate_back, request.candidates))
        return replace(request, query=translate_back(request.query), candidates=candidates)

    def judge(requests: list[JudgeRequest]) -> list[Scores]:
        return judge_arena(list(map(translated_back, requests)))

    return judge


def in_second(held_out: HeldOut) -> HeldOut:
    """The same in the second language."""

    def seed(first: Seed) -> Seed:
        return replace(first, query=translate(first.query))

    attacks = [(seed(meant), translate(attack)) for meant, attack in held_out.attacks]
    return replace(held_out, seeds=[seed(first) for first in held_out.seeds], attacks=attacks)


def _built(folder: Path, make_example: MakeExample, steps: int) -> str:
    if not folder.exists():
        words = [*vocabulary(), *map(translate, vocabulary())]
        with adding_folder(folder) as half:
            build_player(half, make_example, words, seed=0, steps=steps)
    return str(folder)
