"""Which FlashAttention runs on CUDA: PyTorch's own, or a newer one, which PyTorch puts behind the same operators."""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

import torch
from torch.nn.attention import (
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
)


@dataclass(frozen=True)
class Implementation:
    """A FlashAttention that PyTorch can activate."""

    torch_name: str
    """In torch.nn.attention.list_flash_attention_impls()."""
    package: str
    """The name that pip knows it by."""
    runs_on: tuple[int, ...]
    """Major compute capabilities of cards that it supports."""
    default_on: int
    """The one on which "auto" takes it."""


IMPLEMENTATIONS = {
    "fa3": Implementation("FA3", "flash-attn-3", runs_on=(9,), default_on=9),
    "fa4": Implementation("FA4", "flash-attn-4", runs_on=(9, 10), default_on=10),
}
"""The choices besides "aten", which is PyTorch's own FlashAttention-2."""


def choose_flash_attention(setting: str, installed: Collection[str], capability: tuple[int, int] | None) -> str:
    """The implementation that a setting means on a machine.

    Args:
        setting: "aten", "fa3", "fa4", or "auto", which takes FA4 on Blackwell (10.x) and FA3 on Hopper (9.x) if they
            are installed, and else "aten".
        installed: those of IMPLEMENTATIONS that are installed.
        capability: the card's compute capability, None without a card.

    Returns: "aten", "fa3" or "fa4".

    Raises:
        ValueError: the setting is unknown, or names what is not installed or does not run on the card.
    """
    if setting == "auto":
        for name, implementation in IMPLEMENTATIONS.items():
            if name in installed and capability is not None and capability[0] == implementation.default_on:
                return name
        return "aten"
    if setting == "aten":
        return setting
    if setting not in IMPLEMENTATIONS:
        known = ", ".join(repr(name) for name in ("auto", "aten", *IMPLEMENTATIONS))
        raise ValueError(f"attention: expected one of {known}, got {setting!r}")
    wanted = IMPLEMENTATIONS[setting]
    if capability is None or capability[0] not in wanted.runs_on:
        cards = " or ".join(f"{major}.x" for major in wanted.runs_on)
        card = "no CUDA card was found" if capability is None else "this card has {}.{}".format(*capability)
        raise ValueError(f"attention={setting!r} needs compute capability {cards}, but {card}; use attention='auto'")
    if setting not in installed:
        fix = f"install the package {wanted.package}, or use attention='auto'"
        raise ValueError(f"attention={setting!r} is not installed: {fix}")
    return setting


def activate_flash_attention(setting: str) -> str:
    """Puts the implementation that choose_flash_attention chooses for this machine behind PyTorch's operators.

    Returns: "aten", "fa3" or "fa4".

    Raises:
        ValueError: as choose_flash_attention.
    """
    installed = [name for name, implementation in IMPLEMENTATIONS.items() if _is_installed(implementation.package)]
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    chosen = choose_flash_attention(setting, installed, capability)
    if chosen != "aten":
        activate_flash_attention_impl(IMPLEMENTATIONS[chosen].torch_name)
    elif current_flash_attention_impl() is not None:
        restore_flash_attention_impl()
    return chosen


def _is_installed(package: str) -> bool:
    """By its metadata: looking for FA4's module would import the package flash_attn, and with it FlashAttention-2."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
