"""A trained encoder in a file: safetensors with the numbers that it is built from; nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError

from cryoloom.inference.poses.encoder import PoseEncoder, VGGEncoder
from cryoloom.inference.poses.polar_encoder import PolarEncoder

KINDS: dict[str, type[PolarEncoder] | type[VGGEncoder]] = {"polar": PolarEncoder, "vgg": VGGEncoder}


class BadEncoderFile(ValueError):
    """A file that holds no encoder of ours."""


def to_bytes(encoder: PoseEncoder, symmetrised: bool) -> bytes:
    """The file's content. `symmetrised`: whether candidates of the half-turned image belong to its answer."""
    kind = next(name for name, cls in KINDS.items() if type(encoder) is cls)
    about = {"kind": kind, "symmetrised": symmetrised, "described": encoder.described}
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    return safetensors.torch.save(tensors, {"cryoloom": json.dumps(about)})


def read_encoder(path: Path) -> tuple[PoseEncoder, bool]:
    """The encoder, ready to be asked, and whether half-turned images belong to its answer.

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
        symmetrised = bool(about["symmetrised"])
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise BadEncoderFile(
            f"{path}: not an encoder that this version of cryoloom can read ({error})\n"
            "  what to do: train it again with cryoloom reconstruct --poses hybrid"
        ) from error
    return encoder.eval(), symmetrised
