"""Encoders and what they are taught with: dreams, the half-turn, equivariance, files."""

from __future__ import annotations

import pytest
import torch

from cryoloom.inference.poses.dreams import dream
from cryoloom.inference.poses.encoder import (
    PAPER,
    GaussianFilters,
    PoseEncoder,
    VGGEncoder,
    best_of_candidates_degrees,
    half_turned,
    in_box,
    rotation_of_two_vectors,
    to_images,
    with_half_turn,
)
from cryoloom.inference.poses.encoder_file import BadEncoderFile, TrainedEncoder, read_encoder, to_bytes
from cryoloom.inference.poses.frames import HALF_TURN
from cryoloom.inference.poses.polar_encoder import PolarEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images
from cryoloom.physics.ctf import CTFParameters
from cryoloom.physics.image_model import predict
from cryoloom.physics.noise import sample_coefficients, shell_means
from cryoloom.physics.rotations import exponential, geodesic_degrees, random_rotations
from cryoloom.physics.slicing import volume_to_grid
from inference.scene import BOX, PIXEL_SIZE, Phantom

RADIUS = 8


def vgg(heads: int = 2) -> VGGEncoder:
    torch.manual_seed(2)
    box = 2 * (RADIUS + 1)
    return VGGEncoder(box, PIXEL_SIZE * BOX / box, RADIUS, heads=heads)


def polar(phantom: Phantom) -> PolarEncoder:
    torch.manual_seed(2)
    disc = phantom.disc.prefix(RADIUS)
    return PolarEncoder(disc, 90.0, torch.ones(RADIUS + 1), 4.0, candidates=3, nside=2, channels=16, angles=36)


@pytest.fixture(params=["vgg", "polar"])
def encoder(request, phantom) -> PoseEncoder:
    made = vgg() if request.param == "vgg" else polar(phantom)
    return made.eval()


def scene(phantom: Phantom, count: int, seed: int = 0) -> tuple[Images, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    R, t = random_rotations(count, generator).float(), 4 * torch.randn(count, 2, generator=generator)
    return phantom.images(R, t, 1.0, generator), R, t


def test_a_posterior_of_proper_poses(encoder, phantom):
    images, _, _ = scene(phantom, 7)
    found = encoder(images)
    K = found.log_weight.shape[1]
    assert found.R.shape == (7, K, 3, 3)
    assert found.t.shape == (7, K, 2)
    torch.testing.assert_close(found.log_weight.logsumexp(1), torch.zeros(7), rtol=0, atol=1e-5)
    eye = torch.eye(3).expand_as(found.R)
    torch.testing.assert_close(found.R @ found.R.mT, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(found.R), torch.ones(7, K), rtol=0, atol=1e-5)


def test_an_answer_depends_on_the_image_alone(encoder, phantom):
    """Not on the others of its batch, nor on frequencies beyond its radius; and asking changes nothing."""
    images, _, _ = scene(phantom, 6)
    before = images.observed.clone()
    with torch.no_grad():
        whole = encoder(images)
        part = encoder(
            Images(images.observed[2:4], images.ctf[2:4], images.variance, images.group[2:4], images.disc).prefix(
                RADIUS
            )
        )
    torch.testing.assert_close(whole.R[2:4], part.R, rtol=0, atol=1e-4)
    torch.testing.assert_close(whole.t[2:4], part.t, rtol=0, atol=1e-4)
    assert torch.equal(images.observed, before)


def test_every_parameter_learns_from_dreams(encoder, phantom):
    images, R, t = scene(phantom, 8)
    encoder.dream_loss(images, R, t).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_poses_of_the_vgg_encoder_carry_gradients(phantom):
    images, _, _ = scene(phantom, 8)
    encoder = vgg()
    found = encoder(images)
    (found.R.square() * torch.rand_like(found.R)).sum().backward(retain_graph=True)
    assert encoder.rotation.weight.grad is not None
    assert encoder.rotation.weight.grad.abs().max() > 0
    found.t.sum().backward()
    assert encoder.shift.weight.grad is not None
    assert encoder.shift.weight.grad.abs().max() > 0


def test_mixed_precision_leaves_the_poses_in_float32(phantom):
    images, _, _ = scene(phantom, 5)
    plain, mixed = vgg().eval(), vgg().eval()
    mixed.mixed_precision = True
    with torch.no_grad():
        a, b = plain(images), mixed(images)
    assert b.R.dtype == b.t.dtype == torch.float32
    assert not torch.equal(a.R, b.R)
    torch.testing.assert_close(b.R @ b.R.mT, torch.eye(3).expand_as(b.R), rtol=0, atol=1e-5)
    assert float(geodesic_degrees(a.R, b.R).max()) < 10.0  # 8 bits of mantissa; measured 2


def test_the_paper_preset_takes_images_of_64_pixels():
    encoder = VGGEncoder(64, 2.0, 31, PAPER).eval()
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256]


def test_a_half_turned_image_is_the_image_turned(phantom):
    """Flip of both axes about the centre pixel: on an even box a flip and a roll by one."""
    images, _, _ = scene(phantom, 3)
    disc = images.disc
    picture = to_images(images.observed, disc)
    turned = to_images(half_turned(images).observed, disc)
    torch.testing.assert_close(turned, picture.flip((1, 2)).roll((1, 1), (1, 2)), rtol=0, atol=1e-3)


def test_the_half_turned_candidate_predicts_the_image_itself(phantom):
    """R = R' diag(-1, -1, 1), t = -t', where R', t' are right for the turned image."""
    images, R, t = scene(phantom, 4)

    class Oracle(PoseEncoder):
        def forward(self, images):
            # right for the second half of the batch, the turned images
            turned_R = torch.cat([R, R @ HALF_TURN])[:, None]
            return PosePosterior(turned_R, torch.cat([t, -t])[:, None], torch.zeros(8, 1))

        def dream_loss(self, images, R, t):
            raise NotImplementedError

    found = with_half_turn(Oracle(RADIUS), images)
    torch.testing.assert_close(found.R, torch.stack([R, R], 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.t, torch.stack([t, t], 1), rtol=0, atol=1e-6)


def test_candidates_are_invariant_under_the_half_turn(encoder, phantom):
    images, _, _ = scene(phantom, 5)
    with torch.no_grad():
        found, turned = with_half_turn(encoder, images), with_half_turn(encoder, half_turned(images))
    K = found.R.shape[1] // 2
    swapped = torch.cat([turned.R[:, K:], turned.R[:, :K]], 1)
    torch.testing.assert_close(swapped, found.R @ HALF_TURN, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat([turned.t[:, K:], turned.t[:, :K]], 1), -found.t, rtol=0, atol=1e-3)


def test_turning_an_image_turns_the_answer(phantom):
    """In-plane equivariance, by steps of the encoder's own angles, without astigmatism."""
    encoder = polar(phantom).eval()
    generator = torch.Generator().manual_seed(8)
    R, t = random_rotations(6, generator).float(), 3 * torch.randn(6, 2, generator=generator)
    for steps in (1, 5, 18):
        angle = steps * 2 * torch.pi / 36
        spin = exponential(torch.tensor([0.0, 0.0, angle]))
        # content turned by +angle: Y'(k) = Y(spin^-1 k), so R' = R spin^-1 and t' = spin t
        plain, spun = phantom.images(R, t, 1.0), phantom.images(R @ spin.mT, t @ spin[:2, :2].mT, 1.0)
        with torch.no_grad():
            one, two = encoder(plain), encoder(spun)
        assert encoder.equivariant
        angles = geodesic_degrees(one.R[:, 0] @ spin.mT, two.R[:, 0])
        assert float(angles.max()) < 1.0  # the lattice of a disc is not round: measured 0.1
        assert float((one.t[:, 0] @ spin[:2, :2].mT - two.t[:, 0]).norm(dim=1).max()) < 0.2


def test_filters_are_gaussian_and_standardised(phantom):
    images, _, _ = scene(phantom, 2)
    out = GaussianFilters(5)(images.observed, images.disc)
    assert out.shape == (2, 5, BOX, BOX)
    torch.testing.assert_close(out.mean((2, 3)), torch.zeros(2, 5), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.std((2, 3)), torch.ones(2, 5), rtol=0, atol=1e-4)
    sharp = images.disc.transform(out[:, 0])
    soft = images.disc.transform(out[:, 4])
    rim = images.disc.radii > 6
    assert (soft[:, rim].abs() / sharp[:, rim].abs().clamp(min=1e-9)).max() < 1e-3


def test_two_vectors_make_a_rotation():
    v = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    R = rotation_of_two_vectors(v)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(50))
    torch.testing.assert_close(R[:, :, 0], v[:, :3] / v[:, :3].norm(dim=1, keepdim=True))


def test_pictures_in_a_smaller_box_show_the_same(phantom):
    images, _, _ = scene(phantom, 1)
    low = images.prefix(RADIUS)
    small = to_images(low.observed, in_box(low.disc, 18))
    large = to_images(low.observed, low.disc)
    assert small.shape == (1, 18, 18)
    # the same band-limited function, of which the centre is one of the common points
    torch.testing.assert_close(small[0, 9, 9] * 18**2, large[0, 16, 16] * BOX**2, rtol=1e-4, atol=1e-2)


def test_dreams_are_images_of_the_volume(phantom):
    images, _, _ = scene(phantom, 40)
    quiet = Images(images.observed, images.ctf, images.variance * 1e-12, images.group, images.disc).prefix(RADIUS)
    generator = torch.Generator().manual_seed(1)
    dreamt = dream(phantom.grid, quiet, 4.0, generator)
    grid = volume_to_grid(phantom.cloud.density(BOX, PIXEL_SIZE))
    parameters = CTFParameters.create(torch.linspace(8e3, 2e4, 40))
    expected = predict(grid, dreamt.R.double(), dreamt.t.double(), parameters, quiet.disc)
    error = (dreamt.images.observed - expected).abs().square().sum() / expected.abs().square().sum()
    assert float(error) < 1e-6
    assert abs(float(dreamt.t.std()) - 4.0) < 0.7


def test_noise_of_dreams_is_that_of_real_images(phantom):
    disc = phantom.disc.prefix(6)
    variance = (1 + disc.radii).expand(4000, -1)
    noise = sample_coefficients(variance, disc, torch.Generator().manual_seed(2))
    power = shell_means(noise.abs().square(), disc).mean(0)
    torch.testing.assert_close(power, shell_means(variance[0], disc), rtol=0.05, atol=0)
    # real images have just these coefficients
    again = disc.transform(to_images(noise[:5], disc))
    torch.testing.assert_close(again, noise[:5], rtol=0, atol=1e-4)


def test_the_best_of_the_heaviest_candidates_counts():
    R = random_rotations(1, torch.Generator().manual_seed(0)).float()
    far = R @ exponential(torch.tensor([1.0, 0.0, 0.0]))
    found = PosePosterior(torch.stack([far, R], 1), torch.zeros(1, 2, 2), torch.tensor([[0.9, 0.1]]).log())
    assert float(best_of_candidates_degrees(found, R, 1)) == pytest.approx(57.3, abs=0.1)
    assert float(best_of_candidates_degrees(found, R, 2)) < 0.1


def test_a_file_holds_all_of_an_encoder(encoder, phantom, tmp_path):
    images, _, _ = scene(phantom, 4)
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(to_bytes(TrainedEncoder(encoder, True, 90.0)))
    again = read_encoder(path)
    assert again.symmetrised
    assert again.particle_diameter_angstrom == 90.0
    with torch.no_grad():
        assert torch.equal(again.encoder(images).R, encoder(images).R)
        assert torch.equal(again(images).R, with_half_turn(encoder, images).R)


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_bad_file_is_refused_by_name(encoder, tmp_path, damage):
    path = tmp_path / "encoder.safetensors"
    content = to_bytes(TrainedEncoder(encoder, False, 90.0))
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"{}" + content[2:])
    with pytest.raises(BadEncoderFile, match=r"encoder\.safetensors"):
        read_encoder(path)
