"""Score, gradient, Gauss-Newton matrix and power of poses against the image model and its derivatives in float64."""

import pytest
import torch
from torch import Tensor

from cryoloom.kernels.images import Images
from cryoloom.physics.image_model import predict
from cryoloom.physics.noise import log_likelihood
from kernels.scene import Scene


def nudged(scene: Scene, delta: Tensor) -> Tensor:
    """Predictions [C, P] at R exp[omega], t + dt for delta [C, 5] = (omega, dt); linear in omega, exact at zero."""
    s = scene.samples
    x, y, z = delta[:, :3].unbind(-1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(-1, 3, 3)
    R = s.R.double()
    return predict(scene.reference, R + R @ skew, s.t.double() + delta[:, 3:], scene.ctf[s.image], scene.disc)


def likelihood_ratio(scene: Scene, predicted: Tensor) -> Tensor:
    """log p(Y | X) - log p(Y | 0) of each sample, [C]."""
    image = scene.samples.image
    observed = scene.images.observed[image].to(torch.complex128)
    variance = scene.images.variance[scene.images.group[image]].double()
    weight = scene.disc.weight.double()
    empty = torch.zeros_like(observed)
    return log_likelihood(observed, predicted, variance, weight) - log_likelihood(observed, empty, variance, weight)


@pytest.fixture
def found(scene, kernels):
    s = scene.samples
    return kernels.normal_equations(scene.grid, scene.images, s.image, s.R, s.t)


def test_shapes_and_types(scene, found):
    C = len(scene.samples.image)
    assert [tuple(x.shape) for x in found] == [(C,), (C, 5), (C, 5, 5), (C,)]
    assert all(x.dtype == torch.float32 and x.is_contiguous() for x in found)


def test_score_is_the_log_likelihood_ratio(scene, found):
    expected = likelihood_ratio(scene, scene.predicted())
    # float32 sums of hundreds of terms of either sign; measured 5e-7
    assert (found[0] - expected).abs().max() < 2e-6 * expected.abs().max()


def test_power_is_the_squared_prediction_over_the_noise(scene, found):
    image = scene.samples.image
    variance = scene.images.variance[scene.images.group[image]]
    expected = (scene.disc.weight * scene.predicted().abs().square() / variance).sum(1)
    torch.testing.assert_close(found[3].double(), expected, rtol=3e-6, atol=0)


def test_gradient_is_the_autograd_gradient(scene, found):
    delta = torch.zeros(len(scene.samples.image), 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(likelihood_ratio(scene, nudged(scene, delta)).sum(), delta)
    error = (found[1] - expected).norm(dim=0) / expected.norm(dim=0)
    assert error.max() < 1e-5


def test_hessian_is_the_gauss_newton_matrix(scene, found):
    delta = torch.zeros(len(scene.samples.image), 5, dtype=torch.float64, requires_grad=True)
    X = torch.view_as_real(nudged(scene, delta))
    # columns of the Jacobian by differentiating u -> J^T u, which is linear
    u = torch.zeros_like(X, requires_grad=True)
    (JTu,) = torch.autograd.grad(X, delta, u, create_graph=True)
    J = torch.stack([torch.autograd.grad(JTu[:, i].sum(), u, retain_graph=True)[0] for i in range(5)], -1)
    variance = scene.images.variance[scene.images.group[scene.samples.image]]
    expected = torch.einsum("cp,cpri,cprj->cij", (scene.disc.weight / variance).double(), J, J)
    scale = torch.diagonal(expected, dim1=1, dim2=2).sqrt()
    error = (found[2] - expected) / scale[:, :, None] / scale[:, None, :]
    assert error.abs().max() < 1e-5


def test_a_right_pose_scores_half_its_power_give_or_take(scene, kernels):
    """Y = X + n gives sum w (|X|^2 / 2 + Re n conj X): mean power / 2, variance power."""
    s = scene.samples
    B = len(scene.images.observed)
    image = torch.arange(B)
    score, _, _, power = kernels.normal_equations(scene.grid, scene.images, image, s.R[:B], s.t[:B])
    deviation = (score - power / 2) / power.sqrt()
    assert deviation.abs().max() < 3.5
    assert deviation.square().sum() / B == pytest.approx(1, abs=0.9)


def test_gradient_climbs_to_the_true_pose_of_a_clean_image(scene, kernels):
    """With Y = X the residual, and so the gradient, is zero."""
    s = scene.samples
    image = torch.arange(len(s.image))
    im = scene.images
    group = im.group[s.image]
    clean = Images(scene.predicted().to(torch.complex64), im.ctf[s.image], im.variance, group, im.disc)
    score, gradient, hessian, power = kernels.normal_equations(scene.grid, clean, image, s.R, s.t)
    torch.testing.assert_close(score, power / 2, rtol=1e-5, atol=0)
    scale = torch.diagonal(hessian, dim1=1, dim2=2).sqrt()
    # in standard deviations
    assert (gradient / scale).abs().max() < 1e-3


def test_candidates_of_one_image_do_not_depend_on_each_other(scene, kernels):
    s = scene.samples
    alone = kernels.normal_equations(scene.grid, scene.images, s.image[5:6], s.R[5:6], s.t[5:6])
    together = kernels.normal_equations(scene.grid, scene.images, s.image, s.R, s.t)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a[0], b[5], rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_turns_are_the_rotational_columns_of_the_jacobian(scene, kernels):
    """Whitened, they give the matrix that the poses of one volume have; mixtures of volumes are linear."""
    s = scene.samples
    weight = torch.linspace(0.5, 1.5, len(s.R))
    mixture = torch.stack([weight, 1 - weight], 1)
    turns = kernels.turns([scene.grid, scene.grid], mixture, s.R, scene.disc)
    assert turns.shape == (len(s.R), 3, len(scene.disc.k))
    variance = scene.images.variance[scene.images.group[s.image]]
    columns = torch.view_as_real(turns * (scene.images.ctf[s.image] * (scene.disc.weight / variance).sqrt())[:, None])
    found = torch.einsum("cipr,cjpr->cij", columns, columns)
    expected = kernels.normal_equations(scene.grid, scene.images, s.image, s.R, s.t)[2][:, :3, :3]
    scale = torch.diagonal(expected, dim1=1, dim2=2).sqrt()
    assert ((found - expected) / scale[:, :, None] / scale[:, None, :]).abs().max() < 1e-5
