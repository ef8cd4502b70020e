"""The choice of FlashAttention, for machines that are not here."""

import pytest
import torch
from torch.nn.attention import current_flash_attention_impl, list_flash_attention_impls

from advgame.kernels import activate_flash_attention, choose_flash_attention
from advgame.kernels.flash_attention import IMPLEMENTATIONS

AMPERE, HOPPER, BLACKWELL, CONSUMER_BLACKWELL = (8, 0), (9, 0), (10, 3), (12, 0)
ALL = frozenset(IMPLEMENTATIONS)


@pytest.mark.parametrize(
    ("setting", "installed", "capability", "chosen"),
    [
        ("auto", ALL, BLACKWELL, "fa4"),
        ("auto", ALL, HOPPER, "fa3"),
        ("auto", ALL, AMPERE, "aten"),
        ("auto", ALL, CONSUMER_BLACKWELL, "aten"),
        ("auto", ALL, None, "aten"),
        ("auto", {"fa3"}, BLACKWELL, "aten"),
        ("auto", {"fa4"}, HOPPER, "aten"),
        ("auto", {}, HOPPER, "aten"),
        ("aten", ALL, HOPPER, "aten"),
        ("aten", {}, None, "aten"),
        ("fa3", {"fa3"}, HOPPER, "fa3"),
        ("fa4", {"fa4"}, BLACKWELL, "fa4"),
        ("fa4", {"fa4"}, HOPPER, "fa4"),
    ],
)
def test_choice(setting, installed, capability, chosen):
    assert choose_flash_attention(setting, installed, capability) == chosen


@pytest.mark.parametrize(
    ("setting", "installed", "capability", "message"),
    [
        ("fa2", ALL, HOPPER, "attention: expected one of 'auto', 'aten', 'fa3', 'fa4', got 'fa2'"),
        ("fa3", ALL, None, "attention='fa3' needs compute capability 9.x, but no CUDA card was found; use"),
        ("fa3", ALL, BLACKWELL, "attention='fa3' needs compute capability 9.x, but this card has 10.3; use"),
        ("fa4", ALL, AMPERE, "attention='fa4' needs compute capability 9.x or 10.x, but this card has 8.0; use"),
        ("fa3", {"fa4"}, HOPPER, "attention='fa3' is not installed: install the package flash-attn-3, or use"),
        ("fa4", {}, BLACKWELL, "attention='fa4' is not installed: install the package flash-attn-4, or use"),
    ],
)
def test_what_cannot_run_is_refused_with_the_fix(setting, installed, capability, message):
    with pytest.raises(ValueError) as refusal:
        choose_flash_attention(setting, installed, capability)
    assert str(refusal.value).startswith(message)


def test_pytorch_knows_the_implementations():
    assert {implementation.torch_name for implementation in IMPLEMENTATIONS.values()} <= {*list_flash_attention_impls()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a card")
def test_without_a_card_nothing_is_activated():
    assert activate_flash_attention("auto") == activate_flash_attention("aten") == "aten"
    with pytest.raises(ValueError, match=r"^attention='fa4' needs compute capability"):
        activate_flash_attention("fa4")
    assert current_flash_attention_impl() is None
