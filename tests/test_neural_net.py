from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn, tensor
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim, train_model
from mnist_sgd.linear_model import init_params, train_epoch, validate_epoch
from mnist_sgd.neural_net import make_net, merge_linear, relu, show_features, simple_net
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


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.lists(st.booleans(), min_size=4, max_size=4), st.integers(0, 2**31))
def test_merged_layers_are_the_layers(sizes, biases, seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(i, o, bias=bias, dtype=torch.float64) for i, o, bias in zip(sizes, sizes[1:], biases)]
    x = torch.randn(4, sizes[0], dtype=torch.float64)
    merged = merge_linear(*layers)
    assert_close(merged(x), nn.Sequential(*layers)(x))
    assert (merged.in_features, merged.out_features) == (sizes[0], sizes[-1])
    assert all(p.requires_grad and p.is_leaf for p in merged.parameters())


def test_without_relu_it_is_a_linear_model(dl, valid_dl, one_thread):
    skip_draws(31312)
    flat = nn.Sequential(nn.Linear(784, 30), nn.Linear(30, 1))
    history = train_model(flat, dl, valid_dl, BasicOptim(flat.parameters(), .1), 40, progress=False)
    merged = merge_linear(*flat)
    assert sum(p.numel() for p in merged.parameters()) == 785
    assert_close(merged(valid_dl.x), flat(valid_dl.x), rtol=1e-4, atol=1e-4)
    assert history['accuracy'][-1] == pytest.approx(.982826, abs=6e-4) # the bend is worth nothing here


def test_merging_leaves_the_layers_alone():
    layers = nn.Linear(3, 2), nn.Linear(2, 1)
    before = [p.clone() for layer in layers for p in layer.parameters()]
    merged = merge_linear(*layers)
    with torch.no_grad(): merged.weight.zero_(), merged.bias.zero_()
    alone = merge_linear(layers[0])
    with torch.no_grad(): alone.weight.zero_()
    assert_close([p for layer in layers for p in layer.parameters()], before)


def test_net_draws_its_weights_in_order():
    torch.manual_seed(1)
    ours = make_net(5, 4, 3)
    torch.manual_seed(1)
    theirs = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert str(ours) == str(theirs)


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
    with pytest.raises(ValueError, match=r'weights must have .* is \(2, 28\), got float32 \(784, 30\)'): simple_net(torch.ones(2, 28), w1, b1, w2, b2)
    with pytest.raises(ValueError, match=r'is \(2, 30\), got float32 \(1, 30\); call weights.T'): simple_net(torch.ones(2, 784), w1, b1, w2.T, b2)
    for sizes in ((), (784,)):
        with pytest.raises(ValueError, match='needs two sizes or more, such as 784, 30, 1'): make_net(*sizes)
    for sizes in ((784, 0, 1), (784, 3.5, 1), ((784, 30), 1), (784, '30', 1)):
        with pytest.raises(ValueError, match='each size must be a whole number from 1'): make_net(*sizes)
    with pytest.raises(ValueError, match='needs a layer'): merge_linear()
    with pytest.raises(TypeError, match='only nn.Linear can be merged, got ReLU'): merge_linear(*make_net(3, 2, 1))
    with pytest.raises(ValueError, match='a layer with 2 outputs cannot feed one with 3 inputs'):
        merge_linear(nn.Linear(3, 2), nn.Linear(3, 2))
    with pytest.raises(ValueError, match='one dtype and be on one device'): merge_linear(nn.Linear(2, 2), nn.Linear(2, 1).double())
    for x in (torch.ones(2).long(), [1.], 3.):
        with pytest.raises(TypeError, match='relu needs a tensor of floats, got'): relu(x)
    with pytest.raises(TypeError, match='needs a tensor .*, got list'): show_features([1.])
    with pytest.raises(ValueError, match='NaN or infinite'): show_features(torch.full((1, 784), torch.nan))
    for weights in (torch.ones(3, 28, 28), torch.ones(784), torch.ones(784, 30), torch.ones(0, 784)):
        with pytest.raises(ValueError, match=r'show_features needs weights \(n, 784\), n from 1'): show_features(weights)
