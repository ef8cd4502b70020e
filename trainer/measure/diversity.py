"""How varied texts are: an attacker that has collapsed onto one trick shows here before it shows in its reward."""

import math
import re
from collections import Counter

import torch
from torch import Tensor

from advgame.trainer.models.policy import Policy
from advgame.trainer.seeds import limited

ORDERS = (1, 2, 3, 4)
COMPARED_TEXTS = 64
"""At most: diversity falls with their number, and self-BLEU compares every text with every other."""


def diversity(texts: list[str], embedder: Policy) -> dict[str, float | None]:
    """All measures, of at most COMPARED_TEXTS of the texts; `embedder` is the model that embeds them."""
    texts = limited(texts, COMPARED_TEXTS)
    return {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "self_bleu": self_bleu(texts),
        "embedding_spread": spread(embed(texts, embedder)),
    }


def distinct(texts: list[str], n: int) -> float | None:
    """Different n-grams, as a share of all n-grams of all texts; None if there are none."""
    found = [gram for text in texts for gram in _ngrams(_words(text), n)]
    return len(set(found)) / len(found) if found else None


def self_bleu(texts: list[str]) -> float | None:
    """Mean BLEU of each text with the others as its references; None for fewer than two texts."""
    words = [words for words in map(_words, texts) if words]
    if len(words) < 2:
        return None
    return sum(bleu(one, words[:i] + words[i + 1 :]) for i, one in enumerate(words)) / len(words)


def bleu(words: list[str], references: list[list[str]]) -> float:
    """BLEU up to 4-grams; counts of longer n-grams than words are smoothed by adding one (Lin and Och, 2004)."""
    logs = 0.0
    for n in ORDERS:
        wanted: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            wanted |= Counter(_ngrams(reference, n))
        found = Counter(_ngrams(words, n))
        matched, total, smooth = (found & wanted).total(), found.total(), int(n > 1)
        if matched + smooth == 0:
            return 0.0
        logs += math.log((matched + smooth) / (total + smooth)) / len(ORDERS)
    closest = min((len(reference) for reference in references), key=lambda length: (abs(length - len(words)), length))
    return math.exp(logs + min(0.0, 1 - closest / len(words)))


@torch.no_grad()
def embed(texts: list[str], embedder: Policy) -> Tensor:
    """[n, H]: the mean hidden state of each text that has a token."""
    body, rows = embedder.model.base_model, []
    with embedder.ready():
        for text in texts:
            ids = embedder.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            if ids.numel():
                rows.append(body(ids.to(embedder.model.device)).last_hidden_state[0].float().mean(0))
    return torch.stack(rows) if rows else torch.empty(0, embedder.model.config.get_text_config().hidden_size)


def spread(embeddings: Tensor) -> float | None:
    """1 - the mean cosine similarity of two different rows; None for fewer than two."""
    count = len(embeddings)
    if count < 2:
        return None
    rows = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    similar = (rows.sum(0).square().sum() - rows.square().sum()) / (count * (count - 1))
    return 1 - similar.item()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
