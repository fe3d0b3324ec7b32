import math, sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from mnist_sgd.linear_model import (init_params, linear1, mnist_loss, train_epoch,
                                    validate_epoch)
from mnist_sgd.replay import skip_draws
from mnist_sgd.speed import _jit, fast_digits_epoch, fast_epoch, mnist_grad, take_turns

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
    with pytest.raises(ValueError, match=r'weights must have the shape \(k, 1\), where xb .* got float32 \(1, 784\)'): mnist_grad(x, y, weights.T, bias)
    with pytest.raises(ValueError, match='weights must have'): mnist_grad(x, y, weights.repeat(1, 10), bias)
    with pytest.raises(ValueError, match=r'yb must have .* got int64 \(4,\); call yb.unsqueeze\(1\)'): mnist_grad(x, y.squeeze(), weights, bias)
    with pytest.raises(ValueError, match='yb must be 0 or 1, got 7'): mnist_grad(x, y*0 + 7, weights, bias)
    with pytest.raises(ValueError, match='xb is empty'): mnist_grad(x[:0], y[:0], weights, bias)


def test_21_epochs_as_the_loop_by_hand(dl, valid_dl, one_thread):
    by_hand, by_fast, accuracy = start(), start(), []
    for _ in range(21):
        loss = train_epoch(model_of(by_hand), dl, by_hand, lr=1.)
        assert fast_epoch(dl.x, dl.y, *by_fast) == pytest.approx(loss, abs=1e-6)
        accuracy.append(validate_epoch(model_of(by_hand), valid_dl))
        assert validate_epoch(model_of(by_fast), valid_dl) == pytest.approx(accuracy[-1], abs=6e-4) # an image
    assert_close(by_fast, by_hand, rtol=1e-4, atol=1e-4)
    assert accuracy[1:] == pytest.approx(NOTES_TWENTY, abs=4e-4)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 40), st.floats(.01, 3), st.integers(0, 2**31))
def test_any_size_and_learning_rate_as_torch(n, batch_size, lr, seed):
    x, y, weights, bias = small(n, seed, pixels=6)
    theirs = nn.Linear(6, 1)
    theirs.weight.data, theirs.bias.data = weights.T.clone(), bias.clone()
    opt, losses = torch.optim.SGD(theirs.parameters(), lr), []
    for xb, yb in zip(x.split(batch_size), y.split(batch_size)):
        loss = (theirs(xb).sigmoid() - yb).abs().mean()
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert fast_epoch(x, y, weights, bias, lr, batch_size) == pytest.approx(sum(losses)/len(losses), abs=1e-5)
    assert_close(weights.T, theirs.weight.detach(), rtol=1e-3, atol=1e-5)
    assert_close(bias, theirs.bias.detach(), rtol=1e-3, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(2, 12), st.floats(.01, 1), st.integers(0, 2**31))
def test_any_number_of_classes_as_torch(n, batch_size, classes, lr, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 6, generator=generator), torch.randint(classes, (n,), generator=generator)
    ours, theirs = nn.Linear(6, classes), nn.Linear(6, classes)
    theirs.load_state_dict(ours.state_dict())
    opt, losses = torch.optim.SGD(theirs.parameters(), lr), []
    for xb, yb in zip(x.split(batch_size), y.split(batch_size)):
        loss = nn.functional.cross_entropy(theirs(xb), yb)
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert fast_digits_epoch(x, y, ours.weight, ours.bias, lr, batch_size) == pytest.approx(sum(losses)/len(losses), rel=1e-4, abs=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters()): assert_close(a, b, rtol=1e-3, atol=1e-5)


def in_digits(x, y, weights, bias, **kwargs): return fast_digits_epoch(x, y.flatten().long(), weights, bias, **kwargs)


def with_two_classes(weights, bias): return torch.cat([weights, -weights], 1).T.contiguous(), bias.repeat(2)


@pytest.mark.parametrize('epoch, params', [(fast_epoch, lambda *p: p), (in_digits, with_two_classes)])
def test_bytes_as_floats(epoch, params):
    x, y, *start = small(50)
    dots = (x*255).round().byte()
    floats, same = [[p.clone() for p in params(*start)] for _ in range(2)]
    assert epoch(dots.float()/255, y, *floats, lr=.5, batch_size=16) == pytest.approx(epoch(dots, y, *same, lr=.5, batch_size=16), abs=1e-5)
    assert_close(same, floats, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('epoch, params', [(fast_epoch, lambda *p: p), (in_digits, with_two_classes)])
def test_parameters_are_the_same_tensors_and_still_learn(epoch, params):
    x, y, *plain = small(10)
    plain = [p.clone() for p in params(*plain)]
    learning, before = [p.clone().requires_grad_() for p in plain], plain[0].clone()
    places = [p.data_ptr() for p in learning]
    for some in (plain, learning): epoch(x, y, *some, lr=1., batch_size=4)
    assert_close([p.detach() for p in learning], plain)
    assert [p.data_ptr() for p in learning] == places and all(p.requires_grad and p.grad is None for p in learning)
    assert not learning[0].equal(before)


def test_a_layer_of_torch_learns(dl, valid_dl):
    torch.manual_seed(42)
    layer = nn.Linear(784, 1)
    for _ in range(3): fast_epoch(dl.x, dl.y, layer.weight.T, layer.bias)
    assert validate_epoch(layer, valid_dl) > .8


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


@pytest.mark.parametrize('bad, error, message', [
    ({'x': [[1.]]}, TypeError, 'x must be a tensor, got list'),
    ({'bias': 1.}, TypeError, 'bias must be a tensor, got float'),
    ({'x': torch.ones(6, 784).double()}, TypeError, r'x must be float32 or uint8, got float64 \(6, 784\); call x.float\(\)$'),
    ({'weights': torch.ones(784, 1).double()}, TypeError, r'weights must be float32, got float64 \(784, 1\); call weights.float\(\)$'),
    ({'weights': torch.ones(784)}, ValueError, r'weights must have the shape .*; call weights.unsqueeze\(1\)'),
    ({'weights': torch.ones(1, 784)}, ValueError, r'weights must have the shape .*; call weights.t\(\)'),
    ({'bias': torch.tensor(1.)}, ValueError, r'bias must have the shape \(1,\)'),
    ({'y': torch.ones(6)}, ValueError, r'y must have the shape .*; call y.unsqueeze\(1\)'),
    ({'y': torch.ones(5, 1)}, ValueError, r'y must have the shape'),
    ({'x': torch.ones(6, 28, 28)}, ValueError, r'x must have the shape \(n, k\), got float32 \(6, 28, 28\)'),
    ({'x': torch.ones(0, 784), 'y': torch.ones(0, 1)}, ValueError, 'x is empty'),
    ({'y': torch.ones(6, 1)*3}, ValueError, 'y must be 0 or 1, got 3.0'),
    ({'lr': 0}, ValueError, 'lr must be a positive number, got 0'),
    ({'lr': math.nan}, ValueError, 'lr must be a positive number, got nan'),
    ({'lr': '1'}, TypeError, 'lr must be a number, got str'),
    ({'batch_size': 0}, ValueError, 'batch_size must be a whole number from 1, got 0'),
    ({'batch_size': 2.5}, ValueError, 'batch_size must be a whole number from 1, got 2.5')])
def test_bad_arguments_change_nothing(bad, error, message):
    given = dict(zip(('x', 'y', 'weights', 'bias'), small(6)), lr=1.)
    before = {name: given[name].clone() for name in ('weights', 'bias')}
    with pytest.raises(error, match=f'fast_epoch: {message}'): fast_epoch(**given | bad)
    assert all(given[name].equal(before[name]) for name in before)


def test_digits_refuse():
    x, y, weights, bias = torch.rand(6, 784), torch.arange(6), torch.zeros(10, 784), torch.zeros(10)
    with pytest.raises(ValueError, match='y must be classes from 0 to 9, got 10'): fast_digits_epoch(x, y + 5, weights, bias)
    with pytest.raises(TypeError, match=r'y must be int64, .*; call y.long\(\)'): fast_digits_epoch(x, y.int(), weights, bias)
    with pytest.raises(ValueError, match=r'weights must have .*; call weights.t\(\)'): fast_digits_epoch(x, y, weights.T, bias)
    with pytest.raises(ValueError, match='bias must have'): fast_digits_epoch(x, y, weights, bias[:9])


@pytest.mark.parametrize('epoch, params', [(fast_epoch, lambda *p: p), (in_digits, with_two_classes)])
@pytest.mark.parametrize('pixel, lr', [(math.nan, 1.), (math.inf, 1.), (1., 3e38)])
def test_a_loss_that_is_not_finite_changes_nothing(epoch, params, pixel, lr):
    x, y, *start = small(6)
    some = params(*start)
    before = [p.clone() for p in some]
    x[1] = pixel # two steps of three images: the second sees the damage
    with pytest.raises(ValueError, match='the loss is .*: try a learning rate'): epoch(x, y, *some, lr=lr, batch_size=3)
    assert_close(list(some), before, rtol=0, atol=0)


def test_a_bias_that_is_not_finite_changes_nothing():
    "The probabilities of one image are 1 and 0; its digit is the other one, so both biases take a large step."
    x, y, weights, bias = torch.zeros(1, 784), torch.tensor([1]), torch.zeros(2, 784), torch.tensor([3.1e38, 3e38])
    with pytest.raises(ValueError, match='the loss is .*: try a learning rate'): fast_digits_epoch(x, y, weights, bias, lr=3e38)
    assert_close(bias, torch.tensor([3.1e38, 3e38]), rtol=0, atol=0)


def test_without_numba_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'numba', None)
    with pytest.raises(ImportError, match=r"^this needs numba: pip install 'mnist_sgd\[speed\]'$"): _jit(lambda: 1)()


def test_code_that_cannot_be_kept_is_compiled_all_the_same(monkeypatch):
    import numba
    def njit(func, cache=False, real=numba.njit, **kwargs):
        if cache: raise RuntimeError('cannot cache function: no locator available')
        return real(func, **kwargs)
    monkeypatch.setattr(numba, 'njit', njit)
    def double(x): return 2*x
    compiled = _jit(double)
    assert compiled(3) == 6 and compiled.__wrapped__ is double


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
    with pytest.raises(ValueError, match='rounds must be a whole number from 1, got 0'): take_turns({'a': dict}, 0)


@pytest.mark.parametrize('epoch, params', [(fast_epoch, lambda *p: p), (in_digits, with_two_classes)])
def test_a_single_batch_of_all_images(dl, epoch, params):
    "Its sums are long. The images may require gradients, and the targets may be a view."
    torch.manual_seed(1)
    some = [p.clone() for p in params(torch.randn(784, 1)*.01, torch.zeros(1))]
    theirs = [p.double().requires_grad_() for p in some]
    preds = dl.x.double()@theirs[0].reshape(-1, 784).T + theirs[1]
    y = torch.stack([dl.y, dl.y], 1)[:, 0]
    loss = mnist_loss(preds, y) if epoch is fast_epoch else nn.functional.cross_entropy(preds, y.flatten())
    loss.backward()
    assert epoch(dl.x.clone().requires_grad_(), y, *some, lr=.5, batch_size=len(dl.x)) == pytest.approx(loss.item(), abs=1e-5)
    for p, q in zip(some, theirs): assert_close(p.double(), (q - .5*q.grad).detach(), rtol=1e-3, atol=1e-5)
