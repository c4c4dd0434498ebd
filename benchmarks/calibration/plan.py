"""The runs of the calibration: kinds of case x molecules x signal x images x nuisances, a fixed list from one seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from calibration.molecules import BY_NAME, Half, Molecule, of_half

Kind = Literal[
    "plain",
    "nuisances",
    "mixture",
    "views",
    "symmetry-stated",
    "symmetry-unstated",
    "round",
    "junk",
    "denoised",
    "noise",
]
Level = Literal["clear", "hard", "hopeless", "few"]
Denoising = Literal["none", "lowpass", "wiener"]
SEED = 1


@dataclass(frozen=True, slots=True)
class Case:
    """One set and the run on it.

    Attributes:
        id: its name; kind: what it is an example of; level: how hard it is meant to be; half: of the molecules.
        molecules, shares: one, or those of a mixture and their shares of the images.
        box: pixels; snr: over the box, per pixel; images: number; shift: s.d. per axis, pixels.
        symmetry: stated to the program, C1 if none is.
        wide: the set is cut from a wider box, so that delocalised signal leaves it, and passed through real_like.py
            with `nuisances`, pairs of an option and its value; otherwise `nuisances` are options of simulate.py.
        preferred: share of images within 20 degrees of one view; junk: share of junk, `junk_images` to a body.
        denoising: filter applied to the finished stack; cutoff: of its low-pass, of the Nyquist frequency.
        b: B-factor of the maps, square angstrom, where it is larger than the molecules' own: the signal ends before the
            Nyquist frequency, so that the stated resolution can be judged.
        seed: of the set and the program.
    """

    id: str
    kind: Kind
    level: Level
    half: Half
    molecules: tuple[str, ...]
    shares: tuple[float, ...]
    box: int
    snr: float
    images: int
    shift: float
    symmetry: str
    wide: bool
    nuisances: tuple[tuple[str, float], ...]
    preferred: float
    junk: float
    junk_images: int
    denoising: Denoising
    cutoff: float
    b: float
    seed: int

    @property
    def structures(self) -> list[Molecule]:
        """The molecules in full."""
        return [BY_NAME[name] for name in self.molecules]

    @property
    def side(self) -> float:
        """Field of view, angstrom: the largest molecule fits."""
        return max(m.side for m in self.structures)

    def to_json(self) -> dict[str, Any]:
        """As it is stored in a result; equal for equal cases."""
        maps = [[m.name, m.source, m.side, *m.options(self.b)] for m in self.structures]
        return json.loads(json.dumps(asdict(self) | {"maps": maps}))


# how many runs of each kind, and the levels in turn
RUNS: dict[Kind, tuple[int, tuple[Level, ...]]] = {
    "plain": (84, ("clear", "hard", "clear", "hopeless", "few", "hopeless")),
    "nuisances": (72, ("clear", "hard", "clear", "hopeless", "hard", "clear")),
    "mixture": (36, ("clear", "clear", "hard")),
    "views": (32, ("clear", "hard", "clear", "hopeless")),
    "symmetry-stated": (32, ("clear", "hard", "clear", "hopeless", "few")),
    "symmetry-unstated": (28, ("clear", "hard", "clear", "hopeless")),
    "round": (34, ("clear", "hard", "hopeless", "few")),
    "junk": (32, ("clear", "clear", "hard", "hopeless")),
    "denoised": (30, ("clear", "hard", "clear", "hopeless", "few")),
    "noise": (30, ("hopeless",)),
}

# signal: SNR x box^2, the power of the particle in an image relative to the noise of one pixel, on which it depends
# whether poses can be found
SIGNAL: dict[Level, tuple[float, float]] = {
    "clear": (110.0, 260.0),
    "hard": (22.0, 90.0),  # wrong maps that look consistent lie here
    "hopeless": (6.0, 25.0),
    "few": (50.0, 200.0),
}
IMAGES: dict[Level, tuple[int, ...]] = {
    "clear": (1000, 1500, 2000, 3000),
    "hard": (600, 1000, 1500, 2500),
    "hopeless": (500, 1000, 1500),
    "few": (60, 100, 150, 250),
}
# shares of boxes of 32, 48 and 64 pixels: where no start is found to agree, all are made, which costs most
BOXES: dict[Level, tuple[float, float, float]] = {
    "clear": (0.2, 0.7, 0.1),
    "hard": (0.3, 0.65, 0.05),
    "hopeless": (0.8, 0.2, 0.0),
    "few": (0.4, 0.5, 0.1),
}
MOST_AT_64 = 1500  # images, so that runs in the largest box cost no more than others
SHIFTS: dict[int, tuple[float, ...]] = {32: (1.5, 2.0), 48: (1.5, 1.5, 2.0, 2.0, 3.0, 4.0), 64: (1.5, 2.5, 4.0)}
NUISANCES: dict[str, tuple[float, float]] = {
    "neighbours": (0.3, 1.5),
    "gradient": (0.2, 1.0),
    "carbon": (0.02, 0.1),
    "defocus-error": (100.0, 400.0),
    "colour": (0.5, 3.0),
    "mtf": (0.2, 0.8),
    "contrast": (0.08, 0.25),
    "hot": (0.005, 0.03),
}
# B-factor in square pixels of maps whose signal ends early; in boxes of 32 pixels there would be nothing left to state
BLURRED: tuple[float, float] = (40.0, 160.0)
WIDE = 0.25  # share of the kinds other than nuisances that are cut from a wider box
LIKE_SIZES = 1.6  # ratio of the sides of the molecules in a mixture, at most


def plan(seed: int = SEED) -> list[Case]:
    """All cases, in an order that mixes kinds, so that the first of them are a sample of all."""
    cases = [_case(kind, i, seed) for kind in get_args(Kind) for i in range(RUNS[kind][0])]
    order = np.random.default_rng([seed, 99]).permutation(len(cases))
    return [cases[i] for i in order]


def _case(kind: Kind, i: int, seed: int) -> Case:
    """Case i of a kind; it depends on nothing else, so that adding cases changes no other."""
    rng = np.random.default_rng([seed, get_args(Kind).index(kind), i])
    half: Half = "fit" if i % 2 == 0 else "report"
    levels = RUNS[kind][1]
    level = levels[i // 2 % len(levels)]
    box = int(rng.choice([32, 48, 64], p=BOXES[level]))
    images = int(rng.choice(IMAGES[level]))
    molecules = _molecules(kind, half, rng)
    wide = kind == "nuisances" or (kind != "noise" and rng.random() < WIDE)
    side = max(m.side for m in molecules)
    return Case(
        id=f"{kind}-{i + 1:02d}",
        kind=kind,
        level=level,
        half=half,
        molecules=tuple(m.name for m in molecules),
        shares=_shares(len(molecules), rng),
        box=box,
        snr=round(float(np.exp(rng.uniform(*np.log(SIGNAL[level])))) / box**2, 5),
        images=min(images, MOST_AT_64) if box == 64 else images,
        shift=float(rng.choice(SHIFTS[box])),
        symmetry=molecules[0].symmetry if kind == "symmetry-stated" or (kind == "round" and i % 4 < 2) else "C1",
        wide=wide,
        nuisances=_nuisances(kind, rng),
        preferred=float(rng.choice([0.5, 0.7, 0.9, 1.0])) if kind == "views" else 0.0,
        junk=float(rng.choice([0.2, 0.3, 0.4, 0.5, 0.6])) if kind == "junk" else 0.0,
        junk_images=int(rng.choice([5, 50, 200])),
        denoising=_denoising(kind, rng),
        cutoff=round(float(rng.uniform(0.4, 0.7)), 2),
        b=round(_blur(kind, level, box, rng) * (side / box) ** 2, 1),
        seed=int(rng.integers(1, 10_000)),
    )


def _molecules(kind: Kind, half: Half, rng: np.random.Generator) -> list[Molecule]:
    if kind == "round":
        choice = of_half(half, round_=True)
    elif kind in ("symmetry-stated", "symmetry-unstated"):
        choice = of_half(half, symmetric=True)
    elif kind == "mixture":
        return _mixture(of_half(half), int(rng.integers(2, 5)), rng)
    else:
        choice = of_half(half, symmetric=False)
    return [choice[rng.integers(len(choice))]]


def _mixture(choice: list[Molecule], count: int, rng: np.random.Generator) -> list[Molecule]:
    """Up to `count` different proteins of like size, two at least."""
    while True:
        first, *others = (choice[i] for i in rng.permutation(len(choice)))
        chosen = [first]
        for m in others:
            sides = [m.side, *(c.side for c in chosen)]
            if (
                len(chosen) < count
                and max(sides) <= LIKE_SIZES * min(sides)
                and m.protein not in {c.protein for c in chosen}
            ):
                chosen.append(m)
        if len(chosen) > 1:
            return chosen


def _shares(count: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Equal or falling; the largest holds 0.7 at most."""
    if count == 1:
        return (1.0,)
    if rng.random() < 0.5:
        return (round(1 / count, 4),) * count
    largest = float(rng.choice([0.5, 0.6, 0.7]))
    return (largest, *(round((1 - largest) / (count - 1), 4),) * (count - 1))


def _nuisances(kind: Kind, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """One to four of them; coloured noise in half of the pure noise."""
    if kind == "noise":
        return (("colour", round(float(rng.uniform(0.5, 4)), 3)),) if rng.random() < 0.5 else ()
    if kind != "nuisances":
        return ()
    chosen = sorted(rng.permutation(list(NUISANCES))[: rng.integers(1, 5)].tolist())
    return tuple((name, round(float(rng.uniform(*NUISANCES[name])), 4)) for name in chosen)


def _blur(kind: Kind, level: Level, box: int, rng: np.random.Generator) -> float:
    """B-factor in square pixels for every other map in boxes from 48 pixels on, 0 for the others."""
    able = box > 32 and level in ("clear", "hard") and kind != "round"
    return round(float(rng.uniform(*BLURRED))) if able and rng.random() < 0.5 else 0.0


def _denoising(kind: Kind, rng: np.random.Generator) -> Denoising:
    filtered: tuple[Denoising, ...] = ("lowpass", "wiener")
    if kind == "denoised" or (kind == "noise" and rng.random() < 1 / 3):
        return filtered[rng.integers(2)]
    return "none"
