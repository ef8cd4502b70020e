"""The players that are shipped: adapters over SmolLM2-135M, made by the warm start from the files beside them."""

import hashlib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from advgame.trainer.judges.phrases import faithfulness
from advgame.trainer.models.load import load_policy
from advgame.trainer.models.sources import ADAPTER, TAUGHT
from advgame.trainer.prompts.formats import ATTACKER_FORMATS, parse
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Seed
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_warmstart
from advgame.trainer.settings.schema import SamplingConfig
from advgame.trainer.warmstart.examples import AGREED, OPENERS, example
from advgame.trainer.warmstart.material import read_pairs
from advgame.trainer.wrappings import read_wrappings

SAME = 0.9
"""Cosine of what two adapters add to the weights, from which they are one player: rounding differs by processor."""


def test_there_are_two_of_at_most_8_megabytes():
    assert TAUGHT.keys() == {"smollm2-135m-attacker", "smollm2-135m-defender"}
    assert sum(file.stat().st_size for folder in TAUGHT.values() for file in folder.iterdir()) <= 8e6


@pytest.mark.parametrize("name", TAUGHT)
def test_what_they_were_taught_has_not_changed_since(name):
    config = load_warmstart([str(TAUGHT[name] / "config.yaml")], [])
    seeds, wrappings = read_pairs(config.pairs, "pairs"), read_wrappings(config.wrappings, "wrappings")
    prompts = Prompts(config.templates)
    taught = [example(i, seeds, wrappings, prompts, config) for i in range(config.examples)]
    digest = hashlib.sha256(repr([(e.told, e.said, e.short) for e in taught]).encode()).hexdigest()
    assert digest == EXAMPLES[name], "run `make players`, ship what it makes, and put its digest here"


def sample(name: str, texts: list[str]) -> list[str]:
    sampler = LocalSampler(load_policy(name), name).freeze()
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=80)
    return [rollout.text for rollout in sampler.sample([Request(text, (text,)) for text in texts], sampling)]


def unseen() -> list[Seed]:
    return read_seeds(["players/look-alikes-validation.jsonl"])[:16]


@pytest.mark.slow
def test_the_attacker_writes_attacks_that_keep_the_meaning():
    told = [Prompts("taught").attacker(seed.category, "prompt_only", seed.query) for seed in unseen()]
    attacks = [parse(ATTACKER_FORMATS["prompt_only"], text) for text in sample("smollm2-135m-attacker", told)]
    kept = [a is not None and faithfulness(s.query, a.content) for s, a in zip(unseen(), attacks, strict=True)]
    assert sum(kept) >= 13


def test_the_defender_decides_with_its_first_words():
    said = sample("smollm2-135m-defender", [seed.query for seed in unseen()])
    assert sum(text.startswith((AGREED, *OPENERS)) for text in said) >= 15


@pytest.mark.parametrize("name", TAUGHT)
def test_they_are_what_make_players_makes(name, made: Path):
    shipped, anew = (added(folder) for folder in (TAUGHT[name], made / name.removeprefix("smollm2-135m-") / "model"))
    assert shipped.keys() == anew.keys()
    dot, one, other = (
        sum((a[layer] * b[layer]).sum().item() for layer in shipped)
        for a, b in ((shipped, anew), (shipped, shipped), (anew, anew))
    )
    print(f"{name}: cosine {dot / (one * other) ** 0.5:.4f}, lengths {one**0.5:.3f} and {other**0.5:.3f}")
    assert dot / (one * other) ** 0.5 > SAME


def added(folder: Path) -> dict:
    """What an adapter adds to each layer's weight, up to its scale."""
    tensors = load_file(folder / ADAPTER)
    downs = [name for name in tensors if ".lora_A." in name]
    return {down: tensors[down.replace(".lora_A.", ".lora_B.")] @ tensors[down] for down in downs}


EXAMPLES = {
    "smollm2-135m-attacker": "3195089d43529a2a1e92facbc54b2e1fb288fedcf30b4a9a0c502937fa18848c",
    "smollm2-135m-defender": "1e8b4fe9d3669918b195b3730e53cc2671896d30f2db33d4cc66f1c5b3165e60",
}
"""SHA-256 of all that they were told and shown to say."""
