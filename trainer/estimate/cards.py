"""What a run is estimated for: GPUs by their data sheets, and this machine's processor."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """Peaks, by a data sheet."""

    flops: float
    """bfloat16 products with float32 sums, dense, FLOP/s."""
    memory: float
    """Bytes/s."""
    link: float
    """Bytes/s that a GPU sends to others of its machine."""
    network: float
    """Bytes/s that a GPU sends to other machines, with one adapter a GPU."""
    host: float
    """Bytes/s between a GPU and its host, each way."""
    watts: float


@dataclass(frozen=True)
class Card:
    memory: float
    """Bytes that a run may use. A card of 80 GB has more (80 GiB): CUDA, NCCL and fragmentation take the rest."""
    speed: Speed | None
    """None: its time is not estimated."""
    cuda: bool = True
    """False for a processor, whose processes share its memory."""


def processor() -> Card:
    return Card(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None, cuda=False)


CARDS = {
    "a100-40": Card(40e9, Speed(312e12, 1.555e12, 300e9, 25e9, 32e9, 400)),
    "a100-80": Card(80e9, Speed(312e12, 2.039e12, 300e9, 25e9, 32e9, 400)),
    "h100-80": Card(80e9, Speed(989e12, 3.35e12, 450e9, 50e9, 64e9, 700)),
    "h200-141": Card(141e9, Speed(989e12, 4.8e12, 450e9, 50e9, 64e9, 700)),
    "b200-180": Card(180e9, Speed(2250e12, 8e12, 900e9, 50e9, 64e9, 1000)),
    "cpu": processor(),
}
"""SXM modules by NVIDIA's data sheets, with InfiniBand of 200 Gbit/s a GPU for Ampere, else 400; cpu: this machine."""

MACHINE = 8
"""GPUs of a machine, which NVLink connects."""
