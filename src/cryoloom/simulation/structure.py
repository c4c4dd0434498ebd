"""Atomic models: reading, and electron-scattering density on a voxel grid."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import gemmi
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.physics.rotations import symmetry_group

MODEL_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".npz")
MAX_TEXT_BYTES = 2 << 30  # a compressed model that unpacks to more than this is not a model
REACH = 0.47  # largest distance of an atom from the centre, in box sides
_ORGANIC = frozenset({"C", "N", "O", "P", "S", "Se", "H", "D"})
_HYDROGEN = frozenset({"H", "D", "X"})
# direction from the centre of an assembly to its first subunit: off every axis and mirror plane of the groups
_SEAT = np.array([0.9, 0.25, 0.36]) / np.linalg.norm([0.9, 0.25, 0.36])


@dataclass(frozen=True, slots=True)
class AtomicModel:
    """Atoms of one conformation.

    Attributes:
        xyz: positions in angstrom, float64 [A, 3] as (x, y, z).
        atomic_number: uint8 [A].
        name: name of the model for messages.
    """

    xyz: np.ndarray
    atomic_number: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.xyz)

    def moved(self, shift_angstrom: np.ndarray) -> AtomicModel:
        """The same atoms, displaced by a vector."""
        return AtomicModel(self.xyz + shift_angstrom, self.atomic_number, self.name)

    @property
    def reach_angstrom(self) -> float:
        """Largest distance of an atom from the origin."""
        return float(np.linalg.norm(self.xyz, axis=1).max())


def is_model(path: Path) -> bool:
    """Whether a file name is that of an atomic model or trajectory (.pdb, .ent, .cif, .mmcif, also .gz; .npz)."""
    return _suffix(path) in MODEL_SUFFIXES


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def read_models(path: Path, frames: list[int] | None = None) -> list[AtomicModel]:
    """Heavy atoms of a model file, or of the given frames of a trajectory.

    From a PDB or mmCIF file the first model is read, without waters and hydrogens, with the conformer of highest
    occupancy of each residue, in the asymmetric unit. A .npz file holds ``xyz`` [frames, atoms, 3] or [atoms, 3] in
    angstrom and ``name`` [atoms], whose first letter is the element; frame 0 is read if `frames` is None.

    Raises:
        ValueError: for a file that is not a model, or a frame that does not exist.
    """
    if _suffix(path) == ".npz":
        return _read_trajectory(path, frames or [0])
    if frames is not None:
        raise ValueError(f"{path}: frames {frames} asked for, but only .npz trajectories have frames: leave them out")
    text = _read_text(path)
    try:
        if _suffix(path) in (".cif", ".mmcif"):
            structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text).sole_block())
        else:
            structure = gemmi.read_pdb_string(text)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable atomic model ({error})") from None
    if len(structure) == 0:
        raise ValueError(f"{path}: holds no model; expected ATOM records (PDB) or an _atom_site table (mmCIF)")
    positions, numbers = _heavy_atoms(structure[0])
    if not positions:
        raise ValueError(f"{path}: holds no heavy atoms apart from waters")
    return [AtomicModel(np.array(positions), np.array(numbers, np.uint8), path.name)]


def _read_text(path: Path) -> str:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: can't be read ({error})") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"{path}: unpacks to more than {MAX_TEXT_BYTES >> 30} GiB; expected an atomic model")
    return data.decode("utf-8", errors="replace")


def _read_trajectory(path: Path, frames: list[int]) -> list[AtomicModel]:
    try:
        with np.load(path, allow_pickle=False) as data:
            xyz, names = np.asarray(data["xyz"], np.float64), data["name"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path}: not a trajectory with arrays 'xyz' and 'name' ({error})") from None
    xyz = xyz[None] if xyz.ndim == 2 else xyz
    if xyz.ndim != 3 or xyz.shape[1:] != (len(names), 3):
        raise ValueError(f"{path}: xyz has shape {xyz.shape}; expected (frames, {len(names)}, 3)")
    numbers = np.array([gemmi.Element(str(name)[:1]).atomic_number for name in names], np.uint8)
    for frame in frames:
        if not 0 <= frame < len(xyz):
            raise ValueError(f"{path}: frame {frame} asked for; the file has frames 0 to {len(xyz) - 1}")
    heavy = numbers > 1
    return [AtomicModel(xyz[f][heavy], numbers[heavy], f"{path.name} frame {f}") for f in frames]


def _heavy_atoms(model: gemmi.Model) -> tuple[list[list[float]], list[int]]:
    positions, numbers = [], []
    for chain in model:
        conformer = _best_conformers(chain)
        for residue in chain:
            if residue.is_water():
                continue
            polymer = _is_polymer(residue)
            keep = conformer.get(str(residue.seqid), "\0")
            for atom in residue:
                if atom.altloc not in ("\0", keep):
                    continue
                element = _element(atom, polymer)
                if element.name not in _HYDROGEN:
                    positions.append(atom.pos.tolist())
                    numbers.append(element.atomic_number)
    return positions, numbers


def _best_conformers(chain: gemmi.Chain) -> dict[str, str]:
    """Label of highest total occupancy for each residue number with alternatives (the first of equals).

    Occupancies are summed over all residues of one number, as two residue types may share a position.
    """
    totals: dict[str, dict[str, float]] = {}
    for residue in chain:
        for atom in residue:
            if atom.altloc != "\0":
                labels = totals.setdefault(str(residue.seqid), {})
                labels[atom.altloc] = labels.get(atom.altloc, 0.0) + atom.occ
    return {number: max(labels, key=lambda label: labels[label]) for number, labels in totals.items()}


def _is_polymer(residue: gemmi.Residue) -> bool:
    info = gemmi.find_tabulated_residue(residue.name)
    if info.is_amino_acid() or info.is_nucleic_acid():
        return True
    names = {atom.name for atom in residue}
    return {"CA", "N", "C"} <= names or bool(names & {"C1'", "C1*"})


def _element(atom: gemmi.Atom, polymer: bool) -> gemmi.Element:
    """Element of an atom, corrected if the file has no element column.

    Without that column the element is guessed from the atom's name, and a name one column off turns an alpha carbon
    into calcium or a gamma hydrogen into mercury; no polymer holds those, so there the first letter decides.
    """
    if not polymer or atom.element.name in _ORGANIC:
        return atom.element
    letter = atom.name.lstrip("0123456789'\"*")[:1].upper()
    return gemmi.Element(letter) if letter in _ORGANIC else atom.element


def assemble(model: AtomicModel, symmetry: str, radius_angstrom: float) -> AtomicModel:
    """Exactly symmetric assembly: copies of a centred model about the standard axes of a point group.

    The centre of the first copy lies `radius_angstrom` from the origin, off all axes (see `rotations.symmetry_group`).
    """
    group = symmetry_group(symmetry).numpy()
    seated = model.xyz + radius_angstrom * _SEAT
    xyz = np.concatenate([seated @ g.T for g in group])
    return AtomicModel(xyz, np.tile(model.atomic_number, len(group)), f"{model.name} as {symmetry.upper()}")


def electron_density(
    model: AtomicModel, box: int, pixel_size: float, b_factor_angstrom2: float
) -> Float[Tensor, "D D D"]:
    """Electron-scattering density of atoms given relative to the centre of the box, float32 [z, y, x].

    Each atom is the sum of Gaussians of its electron form factor (International Tables C, 4.3.2.2) times one B-factor;
    the sum is band-limited to Nyquist by a Fourier crop from a grid fine enough for the narrowest atom, so that
    nothing aliases. Solvent is vacuum.

    Raises:
        ValueError: if the atoms do not fit into the box, or the B-factor is not positive.
    """
    side = box * pixel_size
    if b_factor_angstrom2 <= 0:
        raise ValueError(f"B-factor {b_factor_angstrom2} A^2; expected a positive number, such as 100")
    if model.reach_angstrom > REACH * side:
        raise ValueError(
            f"{model.name}: atoms reach {model.reach_angstrom:.0f} A from the centre, too far for a box of {box} px x "
            f"{pixel_size:g} A = {side:.0f} A (limit {REACH * side:.0f} A): enlarge the box or the pixel"
        )
    calculator = gemmi.DensityCalculatorE()
    # spacing = d_min / (2 rate); an atom of s.d. sqrt(B / 8 pi^2) must be sampled finer than that to not alias
    spacing = min(pixel_size / 2, 0.7 * float(np.sqrt(b_factor_angstrom2 / (8 * np.pi**2))))
    calculator.rate, calculator.d_min = 1.5, 3 * spacing
    calculator.grid.set_unit_cell(gemmi.UnitCell(*(side,) * 3, *(90.0,) * 3))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.put_model_density_on_grid(_gemmi_model(model, (box // 2) * pixel_size, b_factor_angstrom2))
    fine = torch.from_numpy(np.ascontiguousarray(np.asarray(calculator.grid.array).transpose(2, 1, 0)))
    return _crop_band(fine, box)


def _gemmi_model(model: AtomicModel, centre_angstrom: float, b_factor_angstrom2: float) -> gemmi.Model:
    elements = {int(z): gemmi.Element(int(z)) for z in np.unique(model.atomic_number)}
    residue = gemmi.Residue()
    residue.name = "ALA"
    for position, number in zip((model.xyz + centre_angstrom).tolist(), model.atomic_number.tolist(), strict=True):
        atom = gemmi.Atom()
        atom.element, atom.pos, atom.b_iso = elements[number], gemmi.Position(*position), b_factor_angstrom2
        residue.add_atom(atom)
    chain, out = gemmi.Chain("A"), gemmi.Model(1)
    chain.add_residue(residue)
    out.add_chain(chain)
    return out


def _crop_band(fine: Tensor, box: int) -> Tensor:
    """Fourier crop of a periodic density [n, n, n] to `box`, with index 0 kept in place; density values are kept."""
    n, half = fine.shape[0], (box - 1) // 2
    transform = torch.fft.rfftn(fine)
    out = torch.zeros(box, box, box // 2 + 1, dtype=transform.dtype)
    keep = torch.cat([torch.arange(half + 1), torch.arange(-half, 0)])
    cropped = transform[keep % n][:, keep % n][:, :, : half + 1]
    rows = keep % box
    out[rows[:, None, None], rows[None, :, None], torch.arange(half + 1)[None, None]] = cropped
    return torch.fft.irfftn(out, s=(box,) * 3) * (box / n) ** 3


def load_embedded_structure() -> AtomicModel:
    """The antibody b12 (PDB 1HZH), an asymmetric 150-kDa molecule: heavy atoms, centred.

    Shipped with the package, see data/README.md for its source and licence.
    """
    with (
        resources.files("cryoloom.simulation").joinpath("data/igg_1hzh.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as data,
    ):
        xyz, numbers = data["xyz_hundredth_angstrom"].astype(np.float64) / 100, data["atomic_number"]
    return AtomicModel(xyz, numbers, "IgG b12 (PDB 1HZH)")
