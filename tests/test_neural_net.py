import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn, tensor
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim, train_model
from mnist_sgd.linear_model import init_params, train_epoch, validate_epoch
from mnist_sgd.neural_net import log_loss, make_net, relu, show_features, simple_net
from mnist_sgd.replay import skip_draws



@given(st.lists(st.floats(width=32), min_size=1))
def test_relu_and_its_gradient_are_those_of_torch(numbers):
    ours, theirs = (tensor(numbers, requires_grad=True) for _ in range(2))
    assert_close(relu(ours), F.relu(theirs), rtol=0, atol=0, equal_nan=True)
    known = ~ours.detach().isnan()
    relu(ours)[known].sum().backward()
    F.relu(theirs)[known].sum().backward()
    assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_relu_keeps_the_dtype(dtype): assert relu(torch.ones(2, dtype=dtype)).dtype == dtype


def test_simple_net_learns_what_sequential_learns(dl):
    skip_draws(31312)
    net = make_net(784, 30, 1)
    w1, b1, w2, b2 = [p.detach().t().clone().requires_grad_() for p in net.parameters()]
    train_epoch(partial(simple_net, w1=w1, b1=b1, w2=w2, b2=b2), dl, [w1, b1, w2, b2], .1)
    train_epoch(net, dl, net.parameters(), .1)
    for ours, theirs in zip((w1, b1, w2, b2), net.parameters()): assert_close(ours.t(), theirs, rtol=0, atol=1e-5)


def test_scale_of_the_first_weights_decides(dl, valid_dl, one_thread):
    def trained(scale1, scale2):
        torch.manual_seed(42)
        params = [init_params((784, 30), scale1), init_params(30, scale1), init_params((30, 1), scale2), init_params(1, scale2)]
        def model(xb): return simple_net(xb, *params)
        for _ in range(10): train_epoch(model, dl, params, .1)
        return validate_epoch(model, valid_dl)
    assert trained(784**-.5, 30**-.5) > trained(1, 1) + .01


def test_no_line_gets_beyond_three_quarters_of_the_plane():
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 101), torch.linspace(-1, 1, 101))
    angles = torch.linspace(0, 2*math.pi, 181)
    votes = (grid@torch.stack([angles.cos(), angles.sin()]))[..., None] > torch.linspace(-1.4, 1.4, 57)
    assert .65 < (votes == (grid.prod(1) < 0)[:, None, None]).float().mean(0).max() < .75


def test_without_relu_it_is_a_linear_model(dl, valid_dl, one_thread):
    skip_draws(31312)
    flat = nn.Sequential(nn.Linear(784, 30), nn.Linear(30, 1))
    history = train_model(flat, dl, valid_dl, BasicOptim(flat.parameters(), .1), 40, progress=False)
    w1, b1, w2, b2 = flat.parameters()
    weight, bias = w2@w1, w2@b1 + b2
    assert weight.numel() + bias.numel() == 785
    assert_close(F.linear(valid_dl.x, weight, bias), flat(valid_dl.x), rtol=1e-4, atol=1e-4)
    assert history['accuracy'][-1] == pytest.approx(.982826, abs=6e-4) # the bend is worth nothing here


def test_net_draws_its_weights_in_order():
    torch.manual_seed(1)
    ours = make_net(5, 4, 3)
    torch.manual_seed(1)
    theirs = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert str(ours) == str(theirs)


def test_simple_net_takes_one_input_or_several_axes():
    params = torch.rand(5, 4), torch.rand(4), torch.rand(4, 2), torch.rand(2)
    x = torch.rand(3, 6, 5)
    assert_close(simple_net(x, *params)[1, 2], simple_net(x[1, 2], *params))


def test_features_are_drawn_on_one_scale():
    import matplotlib.pyplot as plt
    figure = show_features(torch.diag(tensor([1., -3.])).repeat(1, 392).requires_grad_(), titles='ab', title='two', ncols=2)
    assert [ax.get_title() for ax in figure.axes] == ['a', 'b'] and figure.get_suptitle() == 'two'
    drawn = [ax.images[0] for ax in figure.axes if ax.images]
    assert [im.get_clim() for im in drawn] == [(-3, 3)]*2
    assert drawn[1].get_array()[0, 1] == -3
    plt.close(figure)


def test_refuses():
    w1, b1, w2, b2 = torch.ones(784, 30), torch.ones(30), torch.ones(30, 1), torch.ones(1)
    with pytest.raises(ValueError, match=r'w1 must have .* is \(2, 28\), got float32 \(784, 30\)'): simple_net(torch.ones(2, 28), w1, b1, w2, b2)
    with pytest.raises(ValueError, match=r'w2 must have .*, got float32 \(1, 30\); call w2.t\(\)'): simple_net(torch.ones(2, 784), w1, b1, w2.T, b2)
    for bad in ((w1, b1[:1], w2, b2), (w1, b1, w2, torch.ones(5))):
        with pytest.raises(ValueError, match=r'^simple_net: b. must have the shape'): simple_net(torch.ones(2, 784), *bad)
    for sizes in ((), (784,)):
        with pytest.raises(ValueError, match='needs two sizes or more, such as 784, 30, 1'): make_net(*sizes)
    for sizes in ((784, 0, 1), (784, 3.5, 1), ((784, 30), 1), (784, '30', 1)):
        with pytest.raises(ValueError, match='each size must be a whole number from 1'): make_net(*sizes)
    for x in (torch.ones(2).long(), [1.], 3.):
        with pytest.raises(TypeError, match='^relu: x must be '): relu(x)
    with pytest.raises(TypeError, match='weights must be a tensor, got list'): show_features([1.])
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match='NaN or infinite'): show_features(torch.full((1, 784), value))
    for weights in (torch.ones(3, 28, 28), torch.ones(784), torch.ones(784, 30)):
        with pytest.raises(ValueError, match=r'show_features: weights must have the shape \(n, 784\)'): show_features(weights)
    with pytest.raises(ValueError, match='weights is empty'): show_features(torch.ones(0, 784))


@pytest.mark.parametrize('dtype', [torch.int64, torch.float32, torch.bool, torch.uint8])
def test_log_loss_is_torchs(dtype):
    preds, targets = torch.tensor([[3.], [-200.], [.5]], requires_grad=True), torch.tensor([[1], [1], [0]])
    expected = F.binary_cross_entropy_with_logits(preds, targets.float())
    assert_close(log_loss(preds, targets.to(dtype)), expected)
    assert_close(torch.autograd.grad(log_loss(preds, targets.to(dtype)), preds), torch.autograd.grad(expected, preds))
    assert log_loss(preds.double(), targets).dtype == torch.float64
    with pytest.raises(ValueError, match='^log_loss: targets must be 0 or 1, got 7'): log_loss(preds, targets*7)
    with pytest.raises(ValueError, match='^log_loss: targets must have the shape of predictions'): log_loss(preds, targets[:, 0])
