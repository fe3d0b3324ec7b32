import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch.testing import assert_close

from mnist_sgd.manual_sgd import apply_step, f, finite_difference, mse, rolling_speed

NUMBERS = st.floats(-10, 10, width=32)


def test_measurements_are_the_same_each_time():
    state = torch.get_rng_state()
    time, speed = rolling_speed()
    assert_close(rolling_speed()[1], speed, rtol=0, atol=0)
    assert_close(torch.get_rng_state(), state)
    assert_close(time, torch.arange(20.))
    assert (rolling_speed(seed=1)[1] != speed).all()
    with pytest.raises(ValueError, match='n must be a whole number from 1, got 0'): rolling_speed(0)


def test_f_is_a_parabola():
    assert_close(f(torch.tensor([0., 1., 2.]), (2., 3., 4.)), torch.tensor([4., 9., 18.]))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_mse_is_torchs(pairs):
    preds, targets = torch.tensor(pairs).unbind(1)
    assert_close(mse(preds, targets), F.mse_loss(preds, targets))


def test_mse_wants_equal_shapes():
    with pytest.raises(ValueError, match=r'mse: targets must have the shape of preds, \(3, 1\), got float32 \(3,\); call targets.unsqueeze\(1\)'):
        mse(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(TypeError, match='targets must be a tensor, got list'): mse(torch.zeros(3), [0, 0, 0])
    with pytest.raises(TypeError, match=r'preds must be floats, got int64 \(2,\); write 1. for 1'):
        mse(torch.tensor([1, 2]), torch.tensor([1, 3]))


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_finite_difference_is_the_gradient(values):
    x = torch.tensor(values).double().requires_grad_()
    def func(x): return (x**3 + torch.sin(x)).sum()
    func(x).backward()
    assert_close(finite_difference(func, x), x.grad, rtol=1e-5, atol=1e-5)


def test_finite_difference_keeps_the_shape():
    x = torch.arange(6.).view(2, 3)
    for y in (x, x.T, x[:, ::2]): assert_close(finite_difference(lambda x: (x**2).sum(), y), 2*y.double())


def test_finite_difference_wants_one_exact_number():
    with pytest.raises(ValueError, match=r'must return one float64 number, got \(3,\)'):
        finite_difference(lambda x: x**2, torch.ones(3))
    with pytest.raises(ValueError, match=r'of torch.float32: call .double\(\) on the data'):
        finite_difference(lambda x: (x.sum()*torch.ones(3)).sum().float(), torch.ones(3))


def test_step_is_torch_optim_sgd():
    time, speed = rolling_speed()
    ours = torch.tensor([.3, .1, .2], requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    opt = torch.optim.SGD([theirs], lr=1e-5)
    for _ in range(20):
        preds = apply_step(ours, time, speed, lr=1e-5)
        assert_close(preds, f(time, theirs))
        F.mse_loss(f(time, theirs), speed).backward()
        opt.step()
        opt.zero_grad()
    assert_close(ours, theirs)
    assert ours.grad is None


def test_scaled_time_finds_least_squares():
    time, speed = rolling_speed()
    t, params = (time - 10)/10, torch.zeros(3, requires_grad=True)
    for _ in range(500): apply_step(params, t, speed, lr=.5)
    best = torch.linalg.lstsq(torch.stack([t**2, t, torch.ones(20)], 1), speed[:, None]).solution.squeeze()
    assert_close(params.detach(), best, rtol=1e-4, atol=1e-3)


def test_step_forgets_an_earlier_gradient():
    time, speed = rolling_speed()
    once, twice = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    mse(f(time, twice), speed).backward()
    for params in (once, twice): apply_step(params, time, speed)
    assert_close(once, twice)


def test_step_wants_three_parameters():
    with pytest.raises(ValueError, match=r'params must have the shape \(3,\), got float32 \(4,\)'):
        apply_step(torch.zeros(4, requires_grad=True), *rolling_speed())
    with pytest.raises(ValueError, match=r'has no gradient: call requires_grad_\(\)'):
        apply_step(torch.zeros(3), *rolling_speed())


def test_step_prints_its_loss(capsys):
    apply_step(torch.zeros(3, requires_grad=True), *rolling_speed(), prn=True)
    assert float(capsys.readouterr().out) == pytest.approx(mse(torch.zeros(20), rolling_speed()[1]).item())


@pytest.mark.parametrize('lr', [0, -1, 0., math.nan, math.inf, -math.inf, 1e39, 10**400])
def test_lr_is_positive(lr):
    params = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match='lr must be'): apply_step(params, *rolling_speed(), lr=lr)
    assert params.grad is None and not params.any()


def test_no_readings():
    with pytest.raises(ValueError, match='preds is empty'): mse(torch.zeros(0), torch.zeros(0))


def test_runaway_step_leaves_the_parameters_finite():
    params = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match='the loss is inf: try'):
        for _ in range(1000): apply_step(params, *rolling_speed(), lr=1e-3)
    assert params.isfinite().all()


def test_noise_is_the_standard_deviation_of_the_errors():
    silent, usual, twice = (rolling_speed(5000, **noise)[1] for noise in ({'noise': 1e-9}, {}, {'noise': 6.}))
    assert abs((usual - silent).std() - 3) < .1 and abs((twice - silent).std() - 6) < .2
