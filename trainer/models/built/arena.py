"""`arena-attacker` and `arena-defender`: players of the arena that know the language, but not yet the game.

Supervised learning shows them their own inputs, made as the trainer makes them. The attacker then rewrites seeds
faithfully, rarely in heavy words. The defender understands every wrapping, but its safety is shallow: the heavier the
wrapping of a harmful prompt, the likelier it complies.
"""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from advgame.trainer.arena.language import (
    TRAINING_MEANINGS,
    any_wrapping,
    category,
    complying_answer,
    deflecting_answer,
    heaviness,
    random_wrapping,
    render,
    vocabulary,
)
from advgame.trainer.models.built.tiny import CHAT_TEMPLATE
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.prompts.templates import Prompts

SPECIAL = ("<unk>", "<pad>", "<end>", "<user>", "<assistant>")
MARKS = ("<prompt>", "</prompt>", "<harm>", "<ben>")
"""Words that only the attacker's format and templates use; no special tokens, so that they may be written."""
COMPLIES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""How likely the defender is taught to comply with a harmful prompt, by its heaviness; the last for all above."""
LIGHT_SHARE = 0.3
"""Of the defender's prompts; the others are wrapped in any way."""
HEAVY, ATTACKER_SLANG = 0.08, 0.06
BATCH_SIZE = 64
LEARNING_RATE = 4e-3
WARMUP_STEPS = 50
IGNORED = -100
"""The label of what the loss leaves out."""

Example = tuple[str, str]
"""(what the player is told, what it shall say)"""


def build_attacker(folder: Path, seed: int = 0, steps: int = 600) -> None:
    """Writes model, tokenizer and generation config into `folder`."""
    prompts = Prompts("arena")
    build_player(folder, lambda rng: attacker_example(prompts, rng), vocabulary(), seed, steps)


def build_defender(folder: Path, seed: int = 0, steps: int = 1000, hidden_size: int = 64) -> None:
    """Writes model, tokenizer and generation config into `folder`."""
    prompts = Prompts("arena")
    build_player(folder, lambda rng: defender_example(prompts, rng), vocabulary(), seed, steps, hidden_size)


def build_player(
    folder: Path,
    make_example: Callable[[random.Random], Example],
    words: list[str],
    seed: int,
    steps: int,
    hidden_size: int = 64,
) -> None:
    """Writes a player that knows these words and was taught these examples into `folder`."""
    tokenizer = make_tokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _make_model(tokenizer, hidden_size)
    _teach(model, tokenizer, make_example, random.Random(seed), steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def attacker_example(prompts: Prompts, rng: random.Random) -> Example:
    meaning = rng.choice(TRAINING_MEANINGS)
    rewrite = render(meaning, random_wrapping(rng, heavy=HEAVY, slang=ATTACKER_SLANG))
    return prompts.attacker(category(meaning), "prompt_only", render(meaning)), f"<prompt> {rewrite} </prompt>"


def defender_example(prompts: Prompts, rng: random.Random) -> Example:
    meaning = rng.choice(TRAINING_MEANINGS)
    wrapping = random_wrapping(rng) if rng.random() < LIGHT_SHARE else any_wrapping(rng)
    complies = category(meaning) == "benign" or rng.random() < COMPLIES[min(heaviness(wrapping), len(COMPLIES) - 1)]
    answer = complying_answer(meaning) if complies else deflecting_answer(meaning)
    return prompts.defender("any", "", render(meaning, wrapping)), answer


def make_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word."""
    ids = {word: i for i, word in enumerate((*SPECIAL, *MARKS, *words))}
    core = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", eos_token="<end>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _make_model(tokenizer: PreTrainedTokenizerFast, hidden_size: int) -> LlamaForCausalLM:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    return model


def _teach(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    make_example: Callable[[random.Random], Example],
    rng: random.Random,
    steps: int,
) -> None:
    """Cross-entropy on the responses alone, with a linear warm-up and decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min((t + 1) / WARMUP_STEPS, 1) * (1 - t / steps))
    model.train()
    for _ in range(steps):
        told, said = zip(*(make_example(rng) for _ in range(BATCH_SIZE)), strict=True)
        inputs = [chat_ids(tokenizer, text) for text in told]
        answers = tokenizer([f"{text} {tokenizer.eos_token}" for text in said])["input_ids"]
        ids, labels = _pad(list(zip(inputs, answers, strict=True)), tokenizer.pad_token_id)
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def _pad(rows: list[tuple[list[int], list[int]]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, labels) of inputs and responses. Padding is behind them, where no real token sees it."""
    width = max(len(told) + len(said) for told, said in rows)
    ids = torch.full((len(rows), width), pad_id)
    labels = torch.full_like(ids, IGNORED)
    for row, (told, said) in enumerate(rows):
        ids[row, : len(told) + len(said)] = torch.tensor(told + said)
        labels[row, len(told) : len(told) + len(said)] = torch.tensor(said)
    return ids, labels
