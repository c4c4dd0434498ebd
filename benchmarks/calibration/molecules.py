"""The molecules of the calibration, in two halves that share no protein: thresholds are fitted on one, reported on the
other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Half = Literal["fit", "report"]


@dataclass(frozen=True, slots=True)
class Molecule:
    """A structure and how a map is made of it.

    Attributes:
        protein: what it is; all structures of one protein are in the same half.
        source: file below the models' folder.
        side: field of view of the final box, angstrom; the atoms reach 0.375 of it from the centre.
        symmetry: of the map about the standard axes, C1 if it has none.
        b: B-factor of the map, square angstrom; large ones leave a body without features.
        onto_z: order of the model's own axis that is turned onto z.
        assembly: point group about which copies are put, at `radius` angstrom.
        round: whether the body is close to a sphere.
    """

    name: str
    protein: str
    half: Half
    source: str
    side: float
    symmetry: str = "C1"
    b: float = 100.0
    onto_z: int | None = None
    assembly: str | None = None
    radius: float = 0.0
    round: bool = False

    def options(self, b: float = 0.0) -> list[str]:
        """Options of make_map.py, but for box and pixel size; `b`: B-factor in place of a smaller one."""
        words = ["--b", str(max(self.b, b))]
        if self.onto_z:
            words += ["--onto-z", str(self.onto_z)]
        if self.assembly:
            words += ["--symmetry", self.assembly, "--radius", str(self.radius)]
        return words


_ADK_OPEN, _ADK_CLOSED = "adk/adk_open.pdb", "adk/adk_closed.pdb"

MOLECULES = (
    Molecule("igg", "antibody", "fit", "1hzh_IgG.pdb", 256.0),
    Molecule("1u6g", "Cand1-Cul1", "fit", "species/1u6g.pdb.gz", 227.0),
    Molecule("1qvr", "ClpB", "fit", "species/1qvr.pdb.gz", 288.0),
    Molecule("adk-open", "adenylate kinase", "fit", _ADK_OPEN, 96.0),
    Molecule("adk-closed", "adenylate kinase", "fit", _ADK_CLOSED, 80.0),
    Molecule("adk-c3", "adenylate kinase", "fit", _ADK_OPEN, 180.0, symmetry="C3", assembly="C3", radius=32.0),
    Molecule("adk-d7", "adenylate kinase", "fit", _ADK_OPEN, 250.0, symmetry="D7", assembly="D7", radius=55.0),
    Molecule("groel", "GroEL", "fit", "1oel_GroEL.pdb", 208.0, symmetry="C7", onto_z=7),
    Molecule("2cg9", "Hsp90", "fit", "species/2cg9.pdb.gz", 195.0, symmetry="C2", onto_z=2),
    Molecule("adk-blob", "adenylate kinase", "fit", _ADK_CLOSED, 80.0, b=1200.0, round=True),
    Molecule(
        "adk-shell", "adenylate kinase", "fit", _ADK_CLOSED, 270.0, symmetry="I", assembly="I", radius=72.0, round=True
    ),
    Molecule("70S", "ribosome", "report", "ribosome70S_5states/grp0.pdb.gz", 390.0),
    Molecule("70S-turned", "ribosome", "report", "ribosome70S_5states/grp3.pdb.gz", 394.0),
    Molecule("cftr", "CFTR", "report", "6msm_CFTR.pdb.gz", 195.0),
    Molecule("ndom", "spike", "report", "6vyb_Ndom.pdb", 80.0),
    Molecule("3gl1", "Hsp70", "report", "species/3gl1.pdb.gz", 131.0),
    Molecule("spike", "spike", "report", "6vxx_spike_closed.pdb", 246.0, symmetry="C3"),
    Molecule("hemoglobin", "hemoglobin", "report", "5ni1_hemoglobin.cif", 96.0, symmetry="C2"),
    Molecule("1bxn", "rubisco", "report", "species/1bxn.pdb.gz", 190.0, symmetry="C4", onto_z=4),
    Molecule("apoferritin", "apoferritin", "report", "apoferritin_ca_apo_sym.pdb", 172.0, symmetry="O", round=True),
    Molecule("ndom-blob", "spike", "report", "6vyb_Ndom.pdb", 80.0, b=1200.0, round=True),
)
BY_NAME = {m.name: m for m in MOLECULES}


def of_half(half: Half, *, symmetric: bool | None = None, round_: bool = False) -> list[Molecule]:
    """The molecules of a half, those with or without symmetry, and the round ones or the others."""
    return [
        m
        for m in MOLECULES
        if m.half == half and m.round == round_ and (symmetric is None or symmetric == (m.symmetry != "C1"))
    ]
