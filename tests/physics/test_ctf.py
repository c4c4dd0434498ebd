"""CTF parameters as a container, and properties of the CTF that need no second implementation."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch

from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc


def some() -> CTFParameters:
    return CTFParameters.create([10000.0, 15000.0, 20000.0], [9000.0, 15500.0, 19000.0], [0.3, -1.0, 2.0])


def test_numbers_broadcast_to_the_batch():
    ctf = CTFParameters.create([10000.0, 20000.0], voltage_kv=200.0)
    assert len(ctf) == 2
    assert all(getattr(ctf, f.name).shape == (2,) for f in fields(ctf))
    assert torch.equal(ctf.defocus_v_angstrom, ctf.defocus_u_angstrom)
    assert ctf.voltage_kv.tolist() == [200.0, 200.0]
    assert len(CTFParameters.create(10000.0)) == 1


def test_rows_and_dtype():
    ctf = some()
    assert ctf[1:].defocus_u_angstrom.tolist() == [15000.0, 20000.0]
    assert ctf[torch.tensor([2, 0])].astigmatism_radian.tolist() == [2.0, pytest.approx(0.3)]
    assert ctf[torch.tensor([True, False, True])].defocus_v_angstrom.tolist() == [9000.0, 19000.0]
    assert ctf.to(dtype=torch.float32).scale.dtype == torch.float32
    assert ctf.scale.dtype == torch.float64


def test_frozen_and_apart_from_what_it_was_made_of():
    source = np.array([10000.0, 20000.0])
    ctf = CTFParameters.create(source)
    source[0] = 0
    assert ctf.defocus_u_angstrom[0] == 10000
    ctf.defocus_u_angstrom[1] = 5
    assert ctf.defocus_v_angstrom[1] == 20000
    with pytest.raises(FrozenInstanceError):
        ctf.scale = torch.ones(2)


def test_read_only_arrays_are_taken_without_a_warning():
    column = np.array([10000.0, 20000.0])
    column.flags.writeable = False  # as pandas gives its columns
    assert CTFParameters.create(column).defocus_u_angstrom.tolist() == [10000, 20000]


def test_frequencies_of_each_image_or_of_all():
    ctf, k = some(), FourierDisc.create(16, 2.0, dtype=torch.float64).k
    together = evaluate_ctf(ctf, k)
    assert together.shape == (3, len(k))
    torch.testing.assert_close(evaluate_ctf(ctf, k.expand(3, -1, -1)), together)


def test_the_ctf_is_even_and_turns_with_its_astigmatism():
    ctf, k = some(), FourierDisc.create(16, 2.0, dtype=torch.float64).k
    torch.testing.assert_close(evaluate_ctf(ctf, -k), evaluate_ctf(ctf, k))
    turn = 0.7  # radian, from x towards y
    c, s = np.cos(turn), np.sin(turn)
    turned = k @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    values = (ctf.defocus_u_angstrom, ctf.defocus_v_angstrom, ctf.astigmatism_radian)
    torch.testing.assert_close(
        evaluate_ctf(CTFParameters.create(*values[:2], values[2] + turn), turned), evaluate_ctf(ctf, k)
    )
    # naming the axes the other way round is the same CTF
    swapped = CTFParameters.create(values[1], values[0], values[2] + np.pi / 2)
    torch.testing.assert_close(evaluate_ctf(swapped, k), evaluate_ctf(ctf, k))


def test_the_u_axis_has_the_u_defocus():
    """Along the astigmatism angle the CTF is that of a round one with defocus U, across it with V."""
    angle, r = 0.4, torch.linspace(0, 0.2, 50, dtype=torch.float64)
    ctf = CTFParameters.create(20000.0, 12000.0, angle)
    for defocus, theta in ((20000.0, angle), (12000.0, angle + np.pi / 2)):
        along = torch.stack([r * np.cos(theta), r * np.sin(theta)], -1)
        torch.testing.assert_close(evaluate_ctf(ctf, along), evaluate_ctf(CTFParameters.create(defocus), along))


def test_b_factor_and_scale():
    k = torch.tensor([[0.1, 0.0]], dtype=torch.float64)
    plain = evaluate_ctf(CTFParameters.create(15000.0), k)
    damped = evaluate_ctf(CTFParameters.create(15000.0, b_factor_angstrom2=80.0, scale=0.9), k)
    torch.testing.assert_close(damped, 0.9 * np.exp(-80 * 0.01 / 4) * plain)
