"""SIGReg: known values, invariances and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from lewm_agent.models.objectives.sigreg import SIGReg, epps_pulley


def reference(samples: torch.Tensor, knots: int = 17) -> torch.Tensor:
    """The released formula, term by term, for samples (B, M)."""
    t = torch.linspace(0, 3, knots, dtype=samples.dtype)
    weights = torch.full_like(t, 2 * 3 / (knots - 1))
    weights[0] = weights[-1] = 3 / (knots - 1)
    phi = torch.exp(-(t**2) / 2)
    angles = samples[..., None] * t
    error = (angles.cos().mean(0) - phi) ** 2 + angles.sin().mean(0) ** 2
    return (error * weights * phi).sum(-1) * samples.shape[0]


def test_equals_the_released_formula_and_its_gradient() -> None:
    samples = torch.randn(64, 9, dtype=torch.float64, requires_grad=True)
    upstream = torch.rand(9, dtype=torch.float64)
    ours = epps_pulley(samples)
    (ours_gradient,) = torch.autograd.grad((ours * upstream).sum(), samples)
    theirs = reference(samples)
    (theirs_gradient,) = torch.autograd.grad((theirs * upstream).sum(), samples)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours_gradient, theirs_gradient, rtol=1e-8, atol=1e-11)


def test_constant_samples_have_the_value_of_the_integral() -> None:
    # All samples at 0: the empirical characteristic function is 1 everywhere.
    integral = 2 * quad(lambda t: (1 - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), 0, 3)[0]
    value = epps_pulley(torch.zeros(128, 1, dtype=torch.float64)).item()
    assert value == pytest.approx(128 * integral, rel=2e-3)


def test_gaussian_samples_reach_the_floor_and_others_do_not() -> None:
    torch.manual_seed(0)
    regularizer = SIGReg(projections=512)
    gaussian = regularizer(torch.randn(8, 256, 16))
    # E[statistic] = integral of (1 - phi(t)^2) w(t): the sampling variance of the characteristic function.
    expected = 2 * quad(lambda t: (1 - np.exp(-(t**2))) * np.exp(-(t**2) / 2), 0, 3)[0]
    assert gaussian.item() == pytest.approx(expected, rel=0.1)
    assert regularizer(0.1 * torch.randn(8, 256, 16)).item() > 20 * gaussian.item()
    assert regularizer(torch.randn(8, 256, 1).expand(-1, -1, 16)).item() > 5 * gaussian.item()


def test_is_invariant_to_order_within_the_batch_and_of_the_time_steps() -> None:
    latents = torch.randn(4, 32, 8)
    values = []
    for variant in (latents, latents[:, torch.randperm(32)], latents[torch.randperm(4)]):
        torch.manual_seed(1)
        values.append(SIGReg(projections=64)(variant).item())
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert values[2] == pytest.approx(values[0], rel=1e-5)


def test_is_invariant_to_rotation_in_expectation() -> None:
    torch.manual_seed(0)
    latents = torch.randn(1, 64, 6) * torch.tensor([3.0, 1, 1, 1, 1, 0.2])
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    many = SIGReg(projections=20_000)
    assert many(latents @ rotation).item() == pytest.approx(many(latents).item(), rel=0.05)


def test_directions_are_fresh_at_every_call() -> None:
    latents = torch.randn(4, 32, 8) * torch.arange(1.0, 9.0)
    regularizer = SIGReg(projections=4)
    assert regularizer(latents).item() != regularizer(latents).item()


def test_each_time_step_is_tested_on_its_own() -> None:
    # Two halves at -1 and +1 in time are no mixture: each step alone is a point mass.
    torch.manual_seed(0)
    steps = torch.stack([torch.randn(256, 4) - 2, torch.randn(256, 4) + 2])
    together = steps.flatten(0, 1).unsqueeze(0) / steps.std()
    assert SIGReg()(steps).item() > SIGReg()(together).item()
