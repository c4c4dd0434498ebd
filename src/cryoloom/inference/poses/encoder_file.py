"""A trained encoder in a file: safetensors with the numbers that it is built from; nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError

from cryoloom.inference.poses.encoder import PoseEncoder, VGGEncoder, with_half_turn
from cryoloom.inference.poses.polar_encoder import PolarEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images

KINDS: dict[str, type[PolarEncoder] | type[VGGEncoder]] = {"polar": PolarEncoder, "vgg": VGGEncoder}


class BadEncoderFile(ValueError):
    """A file that holds no encoder of ours."""


@dataclass(frozen=True, slots=True)
class TrainedEncoder:
    """An encoder as it is asked: with what its answer is made of, and what its images looked like.

    Attributes:
        symmetrised: whether candidates of the half-turned image belong to its answer.
        particle_diameter_angstrom: by which the images that it has learnt from were normalised.
    """

    encoder: PoseEncoder
    symmetrised: bool
    particle_diameter_angstrom: float

    def __call__(self, images: Images) -> PosePosterior:
        """Candidates of images."""
        return with_half_turn(self.encoder, images) if self.symmetrised else self.encoder(images)


def to_bytes(trained: TrainedEncoder) -> bytes:
    """The file's content."""
    encoder = trained.encoder
    kind = next(name for name, cls in KINDS.items() if type(encoder) is cls)
    about = {
        "kind": kind,
        "described": encoder.described,
        "symmetrised": trained.symmetrised,
        "particle_diameter_angstrom": trained.particle_diameter_angstrom,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    return safetensors.torch.save(tensors, {"cryoloom": json.dumps(about)})


def read_encoder(path: Path) -> TrainedEncoder:
    """The encoder of a file.

    Raises:
        BadEncoderFile: if the file is not one of ours, or damaged.
        FileNotFoundError: if there is none.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["cryoloom"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        encoder = KINDS[about["kind"]].of_description(about["described"])
        encoder.load_state_dict(tensors)
        encoder.eval()
        return TrainedEncoder(encoder, bool(about["symmetrised"]), float(about["particle_diameter_angstrom"]))
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise BadEncoderFile(
            f"{path}: not an encoder that this version of cryoloom can read ({error})\n"
            "  what to do: train it again with cryoloom reconstruct --poses hybrid"
        ) from error
