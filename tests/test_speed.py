import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim, train_model
from mnist_sgd.linear_model import (BatchLoader, init_params, linear1, mnist_loss, train_epoch,
                                    validate_epoch)
from mnist_sgd.replay import skip_draws
from mnist_sgd.speed import batch_shares, check_linear, fast_epoch, fast_train, mnist_grad, plot_bars, take_turns

NOTES_TWENTY = [0.8314, 0.9017, 0.9227, 0.9349, 0.9438, 0.9501, 0.9535, 0.9564, 0.9594, 0.9618,
                0.9613, 0.9638, 0.9643, 0.9652, 0.9662, 0.9677, 0.9687, 0.9691, 0.9691, 0.9696]


def start(dtype=torch.float32):
    skip_draws(4269, kept=1620)
    return [p.detach().to(dtype).requires_grad_() for p in (init_params((784, 1)), init_params(1))]


def model_of(params): return partial(linear1, weights=params[0], bias=params[1])


def small(n, seed=0, pixels=784, dtype=torch.float32):
    "Made-up images, targets and parameters."
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, pixels, generator=generator, dtype=dtype)
    y = torch.randint(2, (n, 1), generator=generator)
    weights = torch.randn(pixels, 1, generator=generator, dtype=dtype)*.1
    return x, y, weights, torch.randn(1, generator=generator, dtype=dtype)


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_gradient_as_autograd(n, seed):
    x, y, weights, bias = small(n, seed, pixels=5, dtype=torch.float64)
    weights.requires_grad_(), bias.requires_grad_()
    loss = mnist_loss(linear1(x, weights, bias), y)
    loss.backward()
    ours = mnist_grad(x, y, weights, bias)
    assert_close(ours, (loss.detach(), weights.grad, bias.grad))
    assert not any(o.requires_grad for o in ours)


def test_gradient_where_the_sigmoid_is_flat():
    x, y, weights, bias = torch.tensor([[1000.], [-1000.]]), torch.tensor([[0], [1]]), torch.ones(1, 1), torch.zeros(1)
    loss, *grads = mnist_grad(x, y, weights, bias)
    assert loss == 1 and [g.item() for g in grads] == [0, 0]


def test_gradient_refuses():
    x, y, weights, bias = small(4)
    with pytest.raises(ValueError, match=r'x must be \(n, 784\)'): mnist_grad(x, y, weights.T, bias)
    with pytest.raises(ValueError, match=r'x must be \(n, 784\)'): mnist_grad(x, y.repeat(1, 10), weights.repeat(1, 10), bias.repeat(10))
    with pytest.raises(ValueError, match=r'y \(n, 1\)'): mnist_grad(x, y.squeeze(), weights, bias)
    with pytest.raises(ValueError, match='targets must be 0 or 1, got 7'): mnist_grad(x, y*0 + 7, weights, bias)
    with pytest.raises(ValueError, match='x is empty'): mnist_grad(x[:0], y[:0], weights, bias)


@pytest.mark.parametrize('dtype, near', [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_21_epochs_as_the_loop_by_hand(dl, valid_dl, dtype, near, one_thread):
    by_hand, by_fast = start(dtype), start(dtype)
    hand_dl, images = BatchLoader(dl.x.to(dtype), dl.y), valid_dl.x.to(dtype)
    accuracy = []
    for _ in range(21):
        loss = train_epoch(model_of(by_hand), hand_dl, by_hand, lr=1.)
        assert fast_epoch(hand_dl.x, dl.y, *by_fast, lr=1.) == pytest.approx(loss, abs=1e-6)
        accuracy.append(validate_epoch(model_of(by_hand), BatchLoader(images, valid_dl.y)))
        assert validate_epoch(model_of(by_fast), BatchLoader(images, valid_dl.y)) == accuracy[-1]
    for a, b in zip(by_fast, by_hand): assert_close(a, b, rtol=near, atol=near)
    assert accuracy[1:] == pytest.approx(NOTES_TWENTY, abs=4e-4)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 40), st.floats(.01, 3), st.integers(0, 2**31))
def test_any_size_and_learning_rate_as_torch(n, batch_size, lr, seed):
    x, y, weights, bias = small(n, seed, pixels=6, dtype=torch.float64)
    theirs = nn.Linear(6, 1, dtype=torch.float64)
    theirs.weight.data, theirs.bias.data = weights.T.clone(), bias.clone()
    opt, losses = torch.optim.SGD(theirs.parameters(), lr), []
    for xb, yb in zip(x.split(batch_size), y.split(batch_size)):
        loss = (theirs(xb).sigmoid() - yb).abs().mean()
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert fast_epoch(x, y, weights, bias, lr, batch_size) == pytest.approx(sum(losses)/len(losses))
    assert_close(weights.T, theirs.weight.detach())
    assert_close(bias, theirs.bias.detach())


@pytest.mark.parametrize('n, batch_size', [(10, 4), (10, 5), (2, 4), (1, 1)])
def test_shares_are_those_of_the_batches(n, batch_size):
    values = torch.arange(float(n))
    means = torch.stack([batch.mean() for batch in values.split(batch_size)])
    share = batch_shares(torch.zeros(n, 784), batch_size)
    assert_close(values@share, means.sum())
    assert_close(share.sum(), torch.tensor(float(len(means))))


def test_parameters_are_the_same_tensors_and_still_learn():
    x, y, *plain = small(10)
    learning = [p.clone().requires_grad_() for p in plain]
    places = [p.data_ptr() for p in learning]
    for params in (plain, learning): fast_epoch(x, y, *params, lr=1., batch_size=4)
    assert_close([p.detach() for p in learning], plain)
    assert [p.data_ptr() for p in learning] == places and all(p.grad is None for p in learning)
    train_epoch(model_of(learning), BatchLoader(x, y), learning, lr=1.) # autograd goes on from there
    assert not learning[0].equal(plain[0])


def test_views_of_larger_tensors_will_do():
    x, y, weights, bias = small(10)
    wide, two = torch.cat([x, x], 1), torch.cat([weights, weights], 1)
    fast_epoch(x, y, weights, bias.clone(), 1.)
    fast_epoch(wide[:, :784], y, two[:, 1:], bias, 1.)
    assert_close(two[:, 1:], weights)
    assert not two[:, :1].equal(weights)


@pytest.mark.parametrize('as_targets', [torch.Tensor.float, torch.Tensor.bool, torch.Tensor.byte])
def test_targets_of_any_type(as_targets):
    (x, y, *whole), (_, _, *other) = small(10), small(10)
    fast_epoch(x, y, *whole, lr=1.)
    fast_epoch(x, as_targets(y), *other, lr=1.)
    assert_close(whole, other)


def test_train_as_train_model(dl, valid_dl, one_thread):
    params, ours = start(), start()
    slow = train_model(model_of(params), dl, valid_dl, BasicOptim(params, 1.), 21, progress=False)
    fast = fast_train(dl.x, dl.y, valid_dl.x, valid_dl.y, *ours, epochs=21)
    assert fast['accuracy'] == pytest.approx(slow['accuracy'], abs=5e-5)
    for what in ('train_loss', 'valid_loss'): assert fast[what] == pytest.approx(slow[what], abs=1e-6)
    assert set(fast) == set(slow) and len(fast['seconds']) == 21
    for a, b in zip(ours, params): assert_close(a, b, rtol=1e-5, atol=1e-5)


def refused(*, x=None, y=None, weights=None, bias=None):
    "What each function raises for four good tensors of which some are replaced."
    def given():
        good = small(6)
        return [a if b is None else b for a, b in zip(good, (x, y, weights, bias))]
    good_x, good_y, *_ = small(6)
    return [partial(check_linear, *given()),
            lambda: fast_epoch(*given(), lr=1.),
            lambda: fast_train(*given()[:2], good_x, good_y, *given()[2:], epochs=1),
            lambda: fast_train(good_x, good_y, *given(), epochs=1)]


@pytest.mark.parametrize('bad, error, message', [
    ({'x': [[1.]]}, TypeError, 'x must be a tensor, got list'),
    ({'bias': 1.}, TypeError, 'bias must be a tensor, got float'),
    ({'x': torch.ones(6, 784).byte()}, TypeError, r'floats of one kind, got torch.uint8, .* call .float\(\) on them'),
    ({'weights': torch.ones(784, 1).double()}, TypeError, 'floats of one kind, got torch.float32, torch.float64'),
    ({'weights': torch.ones(784)}, ValueError, r'weights \(784, 1\) and bias \(1,\), got .*\(6, 1\), \(784,\), \(1,\)'),
    ({'weights': torch.ones(1, 784)}, ValueError, r'x must be \(n, 784\)'),
    ({'weights': torch.ones(784, 10)}, ValueError, r'x must be \(n, 784\)'),
    ({'bias': torch.tensor(1.)}, ValueError, r'x must be \(n, 784\)'),
    ({'y': torch.ones(6)}, ValueError, r'y \(n, 1\)'),
    ({'y': torch.ones(5, 1)}, ValueError, r'y \(n, 1\)'),
    ({'x': torch.ones(6, 28, 28)}, ValueError, r'got \(6, 28, 28\), \(6, 1\)'),
    ({'x': torch.ones(0, 784), 'y': torch.ones(0, 1)}, ValueError, 'x is empty: it has no image or no pixel'),
    ({'y': torch.ones(6, 1)*3}, ValueError, 'targets must be 0 or 1, got 3.0'),
    ({'weights': torch.ones(784, 1, device='meta')}, ValueError, 'must be on one device')])
def test_bad_tensors(bad, error, message):
    for call in refused(**bad):
        with pytest.raises(error, match=message): call()


@pytest.mark.parametrize('wrong, error, message', [
    ({'lr': 0}, ValueError, 'lr must be a positive number, got 0'),
    ({'lr': math.nan}, ValueError, 'lr must be a positive number, got nan'),
    ({'lr': '1'}, TypeError, 'lr must be a number, got str'),
    ({'batch_size': 0}, ValueError, 'batch_size must be a whole number from 1, got 0'),
    ({'batch_size': 2.5}, ValueError, 'batch_size must be a whole number from 1, got 2.5'),
    ({'epochs': 0}, ValueError, 'epochs must be a whole number from 1, got 0'),
    ({'epochs': True}, ValueError, 'epochs must be a whole number from 1, got True')])
def test_bad_numbers_change_nothing(wrong, error, message):
    x, y, *params = small(6)
    before = [p.clone() for p in params]
    with pytest.raises(error, match=message): fast_train(x, y, x, y, *params, **{'epochs': 2, **wrong})
    if 'epochs' not in wrong:
        with pytest.raises(error, match=message): fast_epoch(x, y, *params, **{'lr': 1., **wrong})
    assert_close(params, before, rtol=0, atol=0)


@pytest.mark.parametrize('pixel', [math.nan, math.inf])
def test_loss_that_is_not_finite(pixel):
    x, y, *params = small(6)
    bad_x = x.clone()
    bad_x[1] = pixel # two steps of three images: the second sees the damage
    with pytest.raises(ValueError, match='this epoch: the loss is nan: try a learning rate'): fast_epoch(bad_x, y, *params, 1., 3)
    x, y, *params = small(6)
    with pytest.raises(ValueError, match='epoch 1: the loss is nan: try'): fast_train(bad_x, y, x, y, *params, 2, 1., 3)
    x, y, *params = small(6)
    bad_x = x.clone()
    bad_x[:] = math.nan
    with pytest.raises(ValueError, match='preds must be numbers, got NaN'): fast_train(x, y, bad_x, y, *params, 1)


def test_take_turns(monkeypatch):
    clock, order = [0.], []
    monkeypatch.setattr('mnist_sgd.speed.perf_counter', lambda: clock[0])
    def side(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds.pop(0)
        return run
    best = take_turns({'a': side('a', [3., 1., 2., 2., 2.]*2), 'b': side('b', [5.]*9 + [4.])}, rounds=2)
    assert best == {'a': 1., 'b': 4.} and order == (['a']*5 + ['b']*5)*2


def test_take_turns_refuses():
    with pytest.raises(ValueError, match='take_turns got no function to time'): take_turns({}, 1)
    with pytest.raises(ValueError, match='rounds must be a whole number from 1, got 0'): take_turns({'a': dict}, 0)


def test_plot_bars():
    import matplotlib.pyplot as plt
    ax = plot_bars({'slow': .02, 'fast': .0054}, title='two ways')
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([20, 5.4])
    assert [label.get_text() for label in ax.get_yticklabels()] == ['slow', 'fast'] and ax.yaxis_inverted()
    assert {label.get_text() for label in ax.texts} == {'20.0', '5.4'}
    assert ax.get_title() == 'two ways' or ax.get_title(loc='left') == 'two ways'
    plt.close(ax.figure)
    with pytest.raises(ValueError, match='plot_bars got no time to draw'): plot_bars({}, title='none')
