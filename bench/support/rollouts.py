"""Real rollouts for the bench of a training step: two models, and pairs that they sampled."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from advgame.trainer.models.load import load_policy
from advgame.trainer.models.policy import Policy
from advgame.trainer.models.sources import cache_folder
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.seeds import deal, read_seeds
from advgame.trainer.settings.schema import SamplingConfig


@dataclass(frozen=True)
class Case:
    """Both players are copies of one policy."""

    name: str
    policy: Policy
    attacker: list[Pair]
    defender: list[Pair]


class Endless(Policy):
    """Knows no end tokens, so that its samples are as long as the bench wants them."""

    @property
    def stop_ids(self) -> list[int]:
        return [-1]


def smollm2(pairs: int) -> Case:
    return _case(pairs, "SmolLM2-135M", smollm2_policy())


def large_vocabulary(pairs: int) -> Case:
    return _case(pairs, "30M parameters, V = 152,064", large_vocabulary_policy())


def smollm2_policy() -> Endless:
    return Endless(**vars(load_policy("smollm2-135m")))


def large_vocabulary_policy() -> Endless:
    """30M parameters, nearly all of them around a vocabulary of 152,064: random, but its logits spread like
    those of a trained model (about 3 nats a token). Embedding and head are not tied, or it would repeat itself."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=152064, hidden_size=96, intermediate_size=384, num_hidden_layers=12, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=4.2 / 96**0.5)
    torch.random.set_rng_state(state)
    return Endless(model, load_policy("smollm2-135m").tokenizer)


QWEN = {  # name: hidden size, layers, heads, key heads, intermediate size
    "0.5B": (896, 24, 14, 2, 4864),
    "1.5B": (1536, 28, 12, 2, 8960),
    "3B": (2048, 36, 16, 2, 11008),
    "7B": (3584, 28, 28, 4, 18944),
}
BYTES_PER_PARAMETER = 2 * (4 + 4 + 8 + 4)
"""For two players: weights, moving average, AdamW and gradient."""


def qwen(pairs: int) -> Case:
    policy, size = qwen_policy()
    attacker, defender = number_prompts(pairs, pairs)
    return Case(
        f"Qwen2.5-{size} shape",
        policy,
        _pairs(policy, attacker, 250, "attacker"),
        _pairs(policy, defender, 250, "defender"),
    )


def qwen_policy() -> tuple[Endless, str]:
    """A random model of Qwen2.5's shape, so large that two players leave 40% of the card free; and its size."""
    card = torch.cuda.get_device_properties(0).total_memory
    name = None
    for size, (hidden, layers, heads, key_heads, intermediate) in QWEN.items():
        config = Qwen2Config(
            vocab_size=152064, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=key_heads, intermediate_size=intermediate, tie_word_embeddings=False,
        )  # fmt: skip
        with torch.device("meta"):
            parameters = Qwen2ForCausalLM(config).num_parameters()
        if name is None or parameters * BYTES_PER_PARAMETER < 0.6 * card:
            name, chosen = size, config
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(chosen).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=4.2 / chosen.hidden_size**0.5)  # as above
    return Endless(model, numbers(150000)), name


def number_prompts(attacks: int, answers: int) -> tuple[list[str], list[str]]:
    """Random prompts as long as the game's: what the attacker continues, and the defender."""
    generator = torch.Generator().manual_seed(0)

    def text(tokens: int) -> str:
        return " ".join(map(str, torch.randint(150000, (tokens,), generator=generator).tolist()))

    instructions, opening = [text(230), text(230)], text(20)  # harmful and benign; the chat template's
    return (
        [f"{instructions[i % 2]} {text(20)}" for i in range(attacks)],
        [f"{opening} {text(60)}" for _ in range(answers)],
    )


def numbers(tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the numbers of their tokens."""
    core = Tokenizer(WordLevel({str(i): i for i in range(tokens)} | {"<end>": tokens}))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} <end> {% endfor %}"
    return tokenizer


def _case(pairs: int, name: str, policy: Policy) -> Case:
    """An attacker's pair for each seed, a defender's for as many rewrites, at temperature 0.6 and top-p 0.9.

    Seeds are of one kind: they share an instruction, as several of a larger batch do.
    """
    prompts = Prompts()
    seeds = deal(read_seeds(["harmful.jsonl"]), 0, pairs, seed=0)
    texts = [prompts.attacker(seed.category, "think_prompt", seed.query) for seed in seeds]
    version = hashlib.sha256(repr([policy.model.config.vocab_size, *texts]).encode()).hexdigest()[:12]
    file = cache_folder() / f"bench-pairs-2-{version}.json"
    if not file.exists():
        sampled = _sample(policy, prompts, texts)
        file.write_text(json.dumps([[dataclasses.asdict(pair) for pair in part] for part in sampled]))
    attacker, defender = (
        [Pair(Rollout(**pair["chosen"]), Rollout(**pair["rejected"])) for pair in part]
        for part in json.loads(file.read_text())
    )
    return Case(name, policy, attacker, defender)


def _sample(policy: Policy, prompts: Prompts, texts: list[str]) -> tuple[list[Pair], list[Pair]]:
    attacker = _pairs(policy, texts, 200, "attacker")
    rewrites = [rollout.token_ids[:90] for pair in attacker for rollout in pair.rollouts]
    shown = [prompts.defender("any", "", policy.tokenizer.decode(ids)) for ids in rewrites[: len(texts)]]
    return attacker, _pairs(policy, shown, 250, "defender")


def _pairs(policy: Policy, texts: list[str], longest: int, player: str) -> list[Pair]:
    """Two samples for each text, cut to unequal lengths from 60 tokens up."""
    sampling = SamplingConfig(temperature=0.6, top_p=0.9, max_new_tokens=longest)
    requests = [Request(text, (0, 0, b, player, k)) for b, text in enumerate(texts) for k in range(2)]
    rollouts = LocalSampler(policy, player, "float32").sample(requests, sampling)
    cut = []
    for i, rollout in enumerate(rollouts):
        length = 60 + (i * 83) % (longest - 59)
        ids, logprobs = rollout.token_ids[:length], rollout.logprobs[:length]
        text = policy.tokenizer.decode(ids)
        cut.append(dataclasses.replace(rollout, token_ids=ids, logprobs=logprobs, text=text, finished=True))
    return [Pair(*pair) for pair in zip(cut[0::2], cut[1::2], strict=True)]
