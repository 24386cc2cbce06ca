"""What is measured: the settings of a benchmark and the list of its measurements, in their order."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.regions.prediction import EngineName, Precision

SYSTEMS = {
    "a": "stock nnU-Net",
    "d": "our Monte Carlo, K samples",
    "e": "our closed form",
    "e-adaptive": "closed form, adaptive tiling",
}
AUTO = ("auto", "auto")
ENGINES = {"auto": "", "torch": "PyTorch", "openvino": "OpenVINO"}
# Whatever slows the machine down for a while should not hit one system alone.
INTERLEAVED = ("a", "e", "e-adaptive", "d")
CHOICES = {
    "systems": ("a", "d", "e"),
    "engines": tuple(EngineName),
    "precisions": tuple(Precision),
}

Size = tuple[int, int, int]
Way = tuple[str, str]
"""Engine and precision."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """How to measure.

    Attributes:
        networks: `small` (the shipped model), `large` (residual encoder L, random weights), or a model's path.
        sizes: Voxels of the CTs, x y z.
        systems: Letters of `SYSTEMS`; e is measured with full and with adaptive tiling.
        repeats: Warm runs of each measurement.
        rounds: How often all systems take their turn.
        samples: K.
        limit: Seconds that one measurement may take before it makes do with fewer runs.
        device: As for `predict`.
        threads: Of the CPU; default: torch's own choice.
        engines, precisions: Of our systems, as for `predict`; e is measured with every pair of them, d with the first
            one.
    """

    networks: tuple[str, ...] = ("small", "large")
    sizes: tuple[Size, ...] = ((128, 128, 128), (192, 192, 192), (256, 256, 256), (512, 512, 300))
    systems: tuple[str, ...] = CHOICES["systems"]
    repeats: int = 3
    rounds: int = 2
    samples: int = 30
    limit: float = 1800.0
    device: str = "auto"
    threads: int | None = None
    engines: tuple[str, ...] = ("auto",)
    precisions: tuple[str, ...] = ("auto",)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            for word in getattr(self, name):
                if word not in choices:
                    raise SettingsError(f"{word!r} is none of the {name}; choose from {', '.join(choices)}.")
        names = [network_name(network) for network in self.networks]
        if len(set(names)) < len(names):
            raise SettingsError("Networks are known by the last part of their paths; it must not be the same for two.")

    @property
    def ways(self) -> list[Way]:
        """All pairs of engine and precision."""
        return list(itertools.product(self.engines, self.precisions))


@dataclass(frozen=True)
class Task:
    """One measurement, as its process is told.

    Attributes:
        kind: `cases`, `network` or `system`.
        network: If it has one.
        system: Of `SYSTEMS`, with its engine and precision where these are not chosen automatically; see `in_way`.
        size: Of its CT.
        number: Round.
        options: What of the settings the measurement depends on.
    """

    kind: str
    network: str | None = None
    size: Size | None = None
    system: str | None = None
    number: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same measurement with the same settings, and for no other."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """For people."""
        size = "" if self.size is None else size_title(self.size)
        parts = (self.kind, self.network and network_name(self.network), size, self.system)
        return " ".join(filter(None, parts)) + f" ({self.number + 1})"


def network_name(network: str) -> str:
    """What a network is called in tables and folders: `small`, `large`, or the last part of its path."""
    return Path(network).name


def in_way(letter: str, way: Way) -> str:
    """Name a system that runs in this way, such as e@openvino-bfloat16; the inverse is `split_system`."""
    return letter if letter == "a" or way == AUTO else f"{letter}@{'-'.join(way)}"


def split_system(system: str) -> tuple[str, Way]:
    """The key of `SYSTEMS`, and the way."""
    letter, _, way = system.partition("@")
    engine, _, precision = way.partition("-")
    return letter, (engine, precision) if way else AUTO


def way_title(system: str) -> str:
    """Engine and precision for people; empty where both are chosen automatically."""
    engine, precision = split_system(system)[1]
    return " ".join(filter(None, (ENGINES[engine], "" if precision == "auto" else precision)))


def system_title(system: str) -> str:
    """A system for people, such as (e) our closed form, OpenVINO bfloat16."""
    letter = split_system(system)[0]
    return ", ".join(filter(None, (f"({letter}) {SYSTEMS[letter]}", way_title(system))))


def size_name(size: Sequence[int]) -> str:
    """128 for a cube, 512x512x300 for a box."""
    return str(size[0]) if len(set(size)) == 1 else "x".join(map(str, size))


def size_title(size: Sequence[int]) -> str:
    """The same for people: 128³, 512 x 512 x 300."""
    return f"{size[0]}³" if len(set(size)) == 1 else " x ".join(map(str, size))


def parse_size(word: str) -> Size:
    """From 128 or 512x512x300.

    Raises:
        SettingsError: It is no size.
    """
    numbers = [int(number) for number in re.findall(r"\d+", word)]
    if not re.fullmatch(r"\d+(x\d+x\d+)?", word) or min(numbers) < 1:
        raise SettingsError(f"{word!r} is no size; give voxels such as 256 or 512x512x300.")
    x, y, z = numbers * 3 if len(numbers) == 1 else numbers
    return x, y, z


def plan(settings: BenchmarkSettings) -> list[Task]:
    """All measurements in their order: CTs and networks, then the systems, taking turns."""
    runs = {name: getattr(settings, name) for name in ("device", "threads", "repeats", "limit", "samples")}
    tasks = [Task("cases", size=size) for size in settings.sizes]
    tasks += [Task("network", network) for network in settings.networks]
    chosen = {*settings.systems, *(["e-adaptive"] if "e" in settings.systems else [])}
    systems = [
        in_way(letter, way)
        for letter in INTERLEAVED
        if letter in chosen
        for way in (settings.ways if letter.startswith("e") else settings.ways[:1])
    ]
    # A scene takes as long whatever computed it.
    shown = next((system for system in systems if system.startswith("e")), None)
    for network in settings.networks:
        tasks += [
            Task("system", network, size, system, number, runs | {"scene": system == shown})
            for size in settings.sizes
            for number in range(settings.rounds)
            for system in systems
        ]
    return tasks
