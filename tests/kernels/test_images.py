"""What is printed of values that hold images, poses and maps: shapes and units, not numbers."""

import torch

from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import GridPosterior, Images
from cryoloom.maps.io import DensityMap
from cryoloom.physics.frequencies import FourierDisc


def test_shapes_and_units_are_printed():
    disc = FourierDisc.create(64, 4.2, 10)
    P = len(disc.weight)
    images = Images(torch.zeros(5, P), torch.zeros(5, P), torch.zeros(2, P), torch.zeros(5).long(), disc)
    assert repr(disc) == f"FourierDisc({P} frequencies up to r = 10 px, box 64, 4.2 Å/px)"
    assert repr(images) == f"Images(5 images, 2 optics groups, {disc})"
    assert len(images) == 5
    poses = PosePosterior.certain(torch.eye(3).expand(7, 3, 3), torch.zeros(7, 2))
    assert repr(poses) == "PosePosterior(7 images x 1 candidate: R, t in Å)"
    assert repr(DensityMap(torch.zeros(64, 64, 64), 5.6)) == "DensityMap(64^3 voxels, 5.6 Å/voxel)"
    assert repr(DensityMap(torch.zeros(2, 3, 4), 1.0)) == "DensityMap(4 x 3 x 2 voxels, 1 Å/voxel)"
    latents = LatentPosterior.diagonal(torch.zeros(3, 2), torch.zeros(3, 2))
    assert repr(latents) == "LatentPosterior(3 images x 2 latent coordinates: mean, covariance, contrast)"


def test_posteriors_of_batches_are_joined_in_order():
    parts = [GridPosterior.empty(n, 4, 2) for n in (3, 1)]
    for i, part in enumerate(parts):
        part.picks.fill_(i)
    joined = GridPosterior.joined(parts)
    assert joined.picks[:, 0].tolist() == [0, 0, 0, 1]
    assert joined.log_evidence.shape == (4,)
