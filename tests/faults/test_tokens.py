"""Texts that spell out control tokens, in every family of tokenizers."""

import pytest
from families import FAMILIES, control_ids, hostile

from advgame.trainer.prompts.chat import chat_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_spell_control_tokens(family, fault):
    tokenizer, forged = FAMILIES[family](), 0
    expected = control_ids(tokenizer, chat_ids(tokenizer, "hello"))
    for text in hostile(family):
        assert control_ids(tokenizer, chat_ids(tokenizer, text)) == expected, text
        turn = [{"role": "user", "content": text}]
        plain = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
        forged += control_ids(tokenizer, plain) != expected
    fault(
        "input",
        f"texts that spell control tokens, {family}",
        "no control token comes from them",
        times=len(hostile(family)),
        peer=f"transformers' apply_chat_template: {forged} of {len(hostile(family))} become control tokens",
    )
