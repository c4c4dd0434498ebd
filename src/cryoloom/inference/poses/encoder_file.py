"""Trained encoders, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryoloom.files.described import DescribedFile
from cryoloom.inference.poses.encoder import PoseEncoder, VGGEncoder, with_half_turn
from cryoloom.inference.poses.polar_encoder import PolarEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images


class BadEncoderFile(ValueError):
    """A file without a readable encoder."""


_FORMAT: DescribedFile[PoseEncoder] = DescribedFile(
    kinds={"polar": PolarEncoder, "vgg": VGGEncoder},
    error=BadEncoderFile,
    what="an encoder",
    remedy="train it again with cryoloom reconstruct --poses hybrid",
)


@dataclass(frozen=True, slots=True)
class TrainedEncoder:
    """A trained encoder with the conventions under which it was trained.

    Attributes:
        encoder: the network.
        symmetrised: whether candidates from the image turned by 180 degrees in its plane are added.
        particle_diameter_angstrom: diameter by which the images of its training were normalised.
    """

    encoder: PoseEncoder
    symmetrised: bool
    particle_diameter_angstrom: float

    def __call__(self, images: Images) -> PosePosterior:
        """Candidate poses of images."""
        return with_half_turn(self.encoder, images) if self.symmetrised else self.encoder(images)


def to_bytes(trained: TrainedEncoder) -> bytes:
    """Content of a file with a trained encoder."""
    extra = {"symmetrised": trained.symmetrised, "particle_diameter_angstrom": trained.particle_diameter_angstrom}
    return _FORMAT.to_bytes(trained.encoder, extra)


def read_encoder(path: Path) -> TrainedEncoder:
    """The encoder of a file, on the CPU.

    Raises:
        BadEncoderFile: if the file holds no encoder, or is damaged.
        FileNotFoundError: if there is no such file.
    """
    encoder, about = _FORMAT.read(path)
    try:
        return TrainedEncoder(encoder.eval(), bool(about["symmetrised"]), float(about["particle_diameter_angstrom"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadEncoderFile(f"{path}: the header of the encoder lacks {error}; what to do: {_FORMAT.remedy}") from None
