import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn, tensor
from torch.testing import assert_close

from mnist_sgd.all_digits import (Anneal, check_classes, confusion, cross_entropy, digit_accuracy, digit_loaders, load_all,
                                  log_softmax, log_sum_exp, make_conv, mean_distances, plot_confusion, softmax)
from mnist_sgd.data import load_digit
from mnist_sgd.learner_from_scratch import Learner
from mnist_sgd.linear_model import BatchLoader

rows = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=10, max_size=10), min_size=1, max_size=5).map(tensor)


@pytest.fixture(scope='module')
def valid_10(): return load_all('valid')


def test_all_images_in_order_of_the_digits(valid_10):
    x, y = valid_10
    assert x.shape == (10_000, 784) and y.shape == (10_000,) and y.dtype == torch.int64
    assert y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for digit in (0, 3, 9): assert_close(x[y == digit], load_digit(digit, 'valid').flatten(1), rtol=0, atol=0)
    with pytest.raises(ValueError, match="split must be 'train' or 'valid', got 'test'"): load_all('test')


def test_ten_means_are_right_about_two_thirds(valid_10):
    x, y = valid_10
    means = torch.stack([load_digit(digit).mean(0).flatten() for digit in range(10)])
    distances = mean_distances(x, means)
    assert_close(distances[:, 7], (x - means[7]).abs().mean(1))
    assert (distances.argmin(1) == y).float().mean().item() == pytest.approx(.6685, abs=5e-4)


@given(rows)
def test_softmax_and_its_parts_are_those_of_torch(x):
    assert_close(log_sum_exp(x), torch.logsumexp(x, -1))
    assert_close(log_softmax(x), F.log_softmax(x, -1))
    assert_close(softmax(x), torch.softmax(x, -1))
    assert_close(softmax(x).sum(-1), torch.ones(len(x)))


@given(rows, st.integers(0, 2**31))
def test_cross_entropy_and_its_gradient_are_those_of_torch(x, seed):
    targets = torch.randint(10, (len(x),), generator=torch.Generator().manual_seed(seed))
    ours, theirs = (x.double().requires_grad_() for _ in range(2))
    loss, expected = cross_entropy(ours, targets), F.cross_entropy(theirs, targets)
    assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert_close(ours.grad, theirs.grad)


def test_softmax_of_infinite_size():
    assert softmax(tensor([1e38, -1e38])).tolist() == [1, 0]
    assert log_softmax(tensor([0., -math.inf])).tolist() == [0, -math.inf]
    for x in (tensor([1e8, 1e8]), tensor([2000, 1998], dtype=torch.float16)): # a small difference of large numbers
        assert_close(log_softmax(x), F.log_softmax(x, -1))


def test_convolutional_net_layer_by_layer():
    conv = make_conv()
    assert [type(layer).__name__ for layer in conv] == ['Unflatten', *['Conv2d', 'ReLU', 'BatchNorm2d']*3, 'Flatten', 'Linear']
    assert conv(torch.zeros(2, 784)).shape == (2, 10) and sum(p.numel() for p in conv.parameters()) == 34_026


@pytest.mark.parametrize('function', [log_sum_exp, log_softmax, softmax])
def test_refuses_what_are_no_scores(function):
    for x, got in ((tensor([1, 2]), 'torch.int64'), ([1., 2.], 'list'), (None, 'NoneType')):
        with pytest.raises(TypeError, match=f'^scores must be a tensor of floats, got {got}'): function(x)
    for x in (torch.zeros(2, 0), tensor(1.)):
        with pytest.raises(ValueError, match='^scores need at least one class'): function(x)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_confusion_counts_pairs_and_its_diagonal_is_the_accuracy(pairs):
    targets, read = map(tensor, zip(*pairs))
    preds = F.one_hot(read, 4).float()
    matrix = confusion(preds, targets)
    assert matrix.sum() == len(pairs) and matrix.dtype == torch.int64
    for i in range(4):
        for j in range(4): assert matrix[i, j] == pairs.count((i, j))
    assert_close(digit_accuracy(preds, targets), matrix.diagonal().sum()/len(pairs))


def test_anneal_falls_to_nothing_in_equal_steps(valid_10):
    x, y = valid_10
    class Keep:
        rates = []
        def after_batch(self, learn):
            if learn.training: self.rates.append(learn.opt.param_groups[0]['lr'])
    learn = Learner((BatchLoader(x[::100], y[::100], 25), BatchLoader(x[:4], y[:4])), nn.Linear(784, 10), cross_entropy, torch.optim.SGD,
                    cbs=[Anneal(), Keep()])
    learn.fit(2, .8)
    assert Keep.rates == pytest.approx([.8, .7, .6, .5, .4, .3, .2, .1])
    Keep.rates.clear()
    learn.fit(1, .4)
    assert Keep.rates == pytest.approx([.4, .3, .2, .1])


def test_loaders_shuffle_what_is_for_training():
    torch.manual_seed(0)
    dl, valid_dl = digit_loaders(100)
    assert len(next(iter(dl))[1].unique()) > 5 and next(iter(valid_dl))[1].unique().tolist() == [0]
    assert sum(len(yb) for _, yb in dl) == 60_000 and sum(len(yb) for _, yb in valid_dl) == 10_000


def trained(model, epochs, lr, batch_size, opt_func=torch.optim.SGD):
    learn = Learner(digit_loaders(batch_size), model, cross_entropy, opt_func, metrics=digit_accuracy, cbs=[Anneal()])
    learn.fit(epochs, lr)
    return learn.recorder.history['digit_accuracy'][-1]


@pytest.mark.slow
def test_linear_model_reaches_92_of_100(one_thread):
    torch.manual_seed(42)
    assert trained(nn.Linear(784, 10), 10, .5, 256) >= .92


def test_chart_of_a_confusion_matrix():
    import matplotlib.pyplot as plt
    matrix = tensor([[5, 1, 0], [0, 7, 2], [3, 0, 0]])
    ax = plot_confusion(matrix, 'three')
    assert [t.get_text() for t in ax.texts] == ['5', '1', '', '', '7', '2', '3', '', '']
    assert ax.images[0].get_array().tolist() == [[0, 1, 0], [0, 0, 2], [3, 0, 0]] and matrix[0, 0] == 5
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ('read as', 'digit', 'three')
    plt.close(ax.figure)


@pytest.mark.parametrize('preds, targets, error, message', [
    (torch.zeros(2, 3), tensor([0, 3]), ValueError, 'targets must be classes from 0 to 2, got 3; does the model have enough outputs'),
    (torch.zeros(2, 3), tensor([0, -1]), ValueError, 'targets must be classes from 0 to 2, got -1$'),
    (torch.zeros(2, 3), tensor([0]), ValueError, r'preds must be \(n, classes\) and targets \(n,\), got \(2, 3\) and \(1,\)'),
    (torch.zeros(2, 3), tensor([[0], [1]]), ValueError, r'got \(2, 3\) and \(2, 1\)'),
    (torch.zeros(2), tensor([0, 1]), ValueError, r'got \(2,\) and \(2,\)'),
    (torch.zeros(0, 3), tensor([], dtype=torch.int64), ValueError, r'no image or no class: preds are \(0, 3\)'),
    (torch.zeros(1, 0), tensor([0]), ValueError, r'no image or no class: preds are \(1, 0\)'),
    (tensor([[0., math.nan], [1., 0.]]), tensor([0, 0]), ValueError, 'the predictions are NaN: try a learning rate'),
    (torch.zeros(2, 3), tensor([0., 1.]), TypeError, 'targets must be int64, the index of the class, got torch.float32; call .long'),
    (torch.zeros(2, 3).long(), tensor([0, 1]), TypeError, 'preds must be floats, got torch.int64'),
    ([[0.]], tensor([0]), TypeError, 'preds must be a tensor, got list'),
    (torch.zeros(1, 3), [0], TypeError, 'targets must be a tensor, got list')])
def test_refuses_what_are_no_classes(preds, targets, error, message):
    for function in (check_classes, cross_entropy, digit_accuracy, confusion):
        with pytest.raises(error, match=message): function(preds, targets)


def test_refuses():
    with pytest.raises(ValueError, match=r'needs images \(n, 784\) and means \(10, 784\), got \(2, 28, 28\) and \(10, 784\)'):
        mean_distances(torch.zeros(2, 28, 28), torch.zeros(10, 784))
    for means in (torch.zeros(0, 784), torch.zeros(784)):
        with pytest.raises(ValueError, match='needs images'): mean_distances(torch.zeros(2, 784), means)
    for x, means in ((torch.zeros(2, 784).byte(), torch.zeros(10, 784)), (torch.zeros(2, 784), torch.zeros(10, 784).double()), ([[1.]], torch.zeros(10, 1))):
        with pytest.raises(TypeError, match='must be a tensor of float32, or both of float64'): mean_distances(x, means)
    for shape in ((2, 3), (0, 0), (4,)):
        with pytest.raises(ValueError, match='a confusion matrix is square and not empty'): plot_confusion(torch.zeros(shape).long())
    for matrix in (torch.zeros(2, 2), [[1]]):
        with pytest.raises(TypeError, match='needs what `confusion` returns, a tensor of int64'): plot_confusion(matrix)
    with pytest.raises(ValueError, match='batch_size must be a whole number from 1'): digit_loaders(0)
