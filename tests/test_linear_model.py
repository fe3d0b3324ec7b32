import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from torch.utils.data import DataLoader

from mnist_sgd.linear_model import (BatchLoader, batch_accuracy, batch_mean, calc_grad, init_params, label_pair,
                                    linear1, mnist_loss, sigmoid, train_epoch, validate_epoch)
from mnist_sgd.manual_sgd import finite_difference
from mnist_sgd.replay import replay_state, skip_draws

NOTES_TWENTY = [0.8314, 0.9017, 0.9227, 0.9349, 0.9438, 0.9501, 0.9535, 0.9564, 0.9594, 0.9618,
                0.9613, 0.9638, 0.9643, 0.9652, 0.9662, 0.9677, 0.9687, 0.9691, 0.9691, 0.9696]


def start_of_training():
    skip_draws(4269, kept=1620)
    params = init_params((784, 1)), init_params(1)
    return params, partial(linear1, weights=params[0], bias=params[1])


def test_shapes_of_the_notes(dl, valid_dl):
    assert (dl.x.shape, dl.y.shape) == ((12396, 784), (12396, 1))
    assert (valid_dl.x.shape, valid_dl.y.shape) == ((2038, 784), (2038, 1))
    xb, yb = next(iter(dl))
    assert (xb.shape, yb.shape) == ((256, 784), (256, 1))


def test_label_pair(train):
    x, y = label_pair(train[0][:3], train[1][:2])
    assert y.tolist() == [[1], [1], [1], [0], [0]] and y.dtype == torch.int64
    assert_close(x[3].view(28, 28), train[1][0])
    with pytest.raises(ValueError, match=r'label_pair: zeros must have the shape \(zeros, h, w\)'): label_pair(train[0], train[1][:, :5])


def test_first_predictions_of_the_notes(dl):
    skip_draws(100)
    preds = linear1(dl.x, init_params((784, 1)), init_params(1))
    assert_close(preds[[0, 1, 2, -3, -2, -1], 0],
                 torch.tensor([7.5145, 12.6291, 8.7788, -9.0516, 1.0111, -5.5140]), rtol=0, atol=1e-4)


def test_random_weights_are_right_for_a_fifth_to_four_fifths(valid_dl):
    accuracies = []
    for seed in range(200):
        torch.manual_seed(seed)
        preds = linear1(valid_dl.x, init_params((784, 1)), init_params(1))
        accuracies.append(batch_accuracy(preds, valid_dl.y).item())
    assert abs(min(accuracies) - .2) < .01 and abs(max(accuracies) - .8) < .02


def test_four_images_of_the_notes(dl):
    (weights, bias), model = start_of_training()
    x, y = dl.x[:4], dl.y[:4]
    assert_close(model(x).flatten(), torch.tensor([-11.1002, 5.9263, 9.9627, -8.1484]), rtol=0, atol=6e-5)
    for mean, of_bias in ((-.0001, -.0008), (-.0002, -.0015), (-.0003, -.0023)):
        assert_close(calc_grad(x, y, model), torch.tensor(.5006), rtol=0, atol=5e-5)
        assert_close(weights.grad.mean(), torch.tensor(mean), rtol=0, atol=5e-5)
        assert_close(bias.grad, torch.tensor([of_bias]), rtol=0, atol=5e-5)
    assert batch_accuracy(model(x), y) == .5


def test_twenty_epochs_of_the_notes(dl, valid_dl):
    params, model = start_of_training()
    assert validate_epoch(model, valid_dl) == pytest.approx(.5219, abs=4.1e-4)
    accuracies = []
    for _ in range(21):
        train_epoch(model, dl, params, lr=1.)
        accuracies.append(validate_epoch(model, valid_dl))
    assert accuracies[1:] == pytest.approx(NOTES_TWENTY, abs=4e-4)


def test_losses_of_the_notes():
    # the notes' first mnist_loss has no sigmoid; its inverse undoes the one of ours
    targets = torch.tensor([1, 0, 1])
    for preds, printed in (((.9, .4, .2), .433), ((.9, .4, .8), .233)):
        assert mnist_loss(torch.logit(torch.tensor(preds)), targets).item() == pytest.approx(printed, abs=5e-4)


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=10))
def test_sigmoid_and_its_gradient_are_torchs(values):
    ours, theirs = (torch.tensor(values, requires_grad=True) for _ in range(2))
    assert_close(sigmoid(ours), torch.sigmoid(theirs))
    sigmoid(ours).sum().backward()
    torch.sigmoid(theirs).sum().backward()
    assert_close(ours.grad, theirs.grad)


@given(st.lists(st.tuples(st.floats(-8, 8, width=32), st.integers(0, 1)), min_size=1, max_size=10))
def test_loss_is_l1_loss_of_the_sigmoid(pairs):
    preds = torch.tensor([p for p, _ in pairs], requires_grad=True)
    targets = torch.tensor([t for _, t in pairs])
    loss = mnist_loss(preds, targets)
    assert_close(loss, F.l1_loss(preds.sigmoid(), targets.float()))
    loss.backward()
    by_hand = finite_difference(lambda p: mnist_loss(p, targets), preds)
    assert_close(preds.grad.double(), by_hand, rtol=1e-3, atol=1e-6)


def test_linear1_is_torchs():
    x, weights, bias = torch.rand(5, 784), torch.rand(784, 1), torch.rand(1)
    assert_close(linear1(x, weights, bias), F.linear(x, weights.T, bias))
    for bad in ((torch.rand(5, 28, 28), weights, bias), (x, weights.squeeze(), bias), (x, weights, torch.rand(5))):
        with pytest.raises(ValueError, match=r'linear1: (weights must have the shape \(k, out\)|bias must have the shape \(out,\)), where xb'):
            linear1(*bad)


def test_init_params():
    torch.manual_seed(3)
    expected = torch.randn(784, 1)*.5
    torch.manual_seed(3)
    params = init_params((784, 1), std=.5)
    assert_close(params.detach(), expected)
    assert params.requires_grad and params.is_leaf
    generator = torch.Generator().manual_seed(3)
    assert_close(init_params((784, 1), .5, generator, 'cpu').detach(), expected)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 40))
def test_loader_gives_the_batches_of_torchs(n, batch_size):
    x, y = torch.arange(n*3.).view(n, 3), torch.arange(n).view(n, 1)
    ours, theirs = BatchLoader(x, y, batch_size), DataLoader(list(zip(x, y)), batch_size=batch_size)
    assert len(ours) == len(theirs)
    for (xa, ya), (xb, yb) in zip(ours, theirs, strict=True):
        assert_close(xa, xb)
        assert_close(ya, yb)


def test_loader_of_all_images_gives_the_batches_of_torchs(dl):
    for (xa, ya), (xb, yb) in zip(dl, DataLoader(list(zip(dl.x, dl.y)), batch_size=256), strict=True):
        assert_close(xa, xb, rtol=0, atol=0)
        assert_close(ya, yb, rtol=0, atol=0)


def test_shuffled_loader():
    x, y = torch.arange(50.).view(50, 1), torch.arange(50).view(50, 1)
    def epochs(seed):
        loader = BatchLoader(x, y, 8, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return [[torch.cat(part).flatten().tolist() for part in zip(*loader)] for _ in range(2)]
    (xs, ys), (xs2, _) = epochs(0)
    assert xs == ys and sorted(xs) == list(range(50))       # pairs stay together, all of them come
    assert xs != list(range(50)) and xs != xs2               # a new order in each epoch
    assert epochs(0) == epochs(0) and epochs(0) != epochs(1) # from the generator alone


def test_loader_refuses():
    with pytest.raises(ValueError, match=r'BatchLoader: y must have the shape \(n, ...\), where x \(n, ...\) is \(3, 1\), got float32 \(2, 1\)'): BatchLoader(torch.zeros(3, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match='x is empty'): BatchLoader(torch.zeros(0, 1), torch.zeros(0, 1))
    for bad in (0, -1, 2.5, '8', True):
        with pytest.raises(ValueError, match='batch_size must be a whole number from 1'):
            BatchLoader(torch.zeros(3, 1), torch.zeros(3, 1), bad)


def test_validation_is_the_mean_of_batches(valid_dl):
    (_, _), model = start_of_training()
    accuracies = [((model(x) > 0) == y).float().mean() for x, y in valid_dl]
    assert validate_epoch(model, valid_dl) == round(torch.stack(accuracies).mean().item(), 4)
    assert batch_mean(model, valid_dl, mnist_loss) == pytest.approx(
        torch.stack([mnist_loss(model(x), y) for x, y in valid_dl]).mean().item())


def test_epoch_is_torch_optim_sgd(dl):
    (weights, bias), model = start_of_training()
    theirs = [p.detach().clone().requires_grad_() for p in (weights, bias)]
    opt, losses = torch.optim.SGD(theirs, lr=1.), []
    loss = train_epoch(model, dl, [weights, bias], lr=1.)
    for xb, yb in dl:
        losses.append(mnist_loss(linear1(xb, *theirs), yb))
        losses[-1].backward()
        opt.step()
        opt.zero_grad()
    assert_close(weights, theirs[0])
    assert_close(bias, theirs[1])
    assert loss == pytest.approx(torch.stack(losses).mean().item())


@pytest.mark.parametrize('func', [mnist_loss, batch_accuracy])
def test_predictions_and_targets_at_the_door(func):
    with pytest.raises(ValueError, match=r'must have the shape of pred\w+, \(4, 1\), got float32 \(4,\); call \w+.unsqueeze\(1\)'):
        func(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match='(targets|yb) must be 0 or 1, got 3'):
        func(torch.zeros(2, 1), torch.tensor([[3], [7]]))
    with pytest.raises(ValueError, match='(targets|yb) must be 0 or 1, got nan'):
        func(torch.zeros(1, 1), torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match=r'pred\w+ is empty'): func(torch.zeros(0, 1), torch.zeros(0, 1))
    with pytest.raises(TypeError, match=r'pred\w+ must be a tensor, got float'): func(1., torch.zeros(1))


def test_empty_loader(tiny_dl):
    (weights, bias), model = start_of_training()
    with pytest.raises(ValueError, match='the loader is empty: it gave no batch'): train_epoch(model, [], [weights, bias], 1.)
    with pytest.raises(ValueError, match='the loader is empty: it gave no batch'): validate_epoch(model, [])


def test_parameters_without_a_gradient(tiny_dl):
    weights, bias = torch.zeros(784, 1), torch.zeros(1)
    model = partial(linear1, weights=weights, bias=bias)
    with pytest.raises(ValueError, match=r'params\[0\] has no gradient: call requires_grad_'): train_epoch(model, tiny_dl, [weights, bias], 1.)
    with pytest.raises(ValueError, match='the loss has no gradient: call requires_grad_'):
        calc_grad(*next(iter(tiny_dl)), model)
    (weights, bias), model = start_of_training()
    unused = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match='no parameter has a gradient'): train_epoch(model, tiny_dl, [unused], 1.)


def test_loss_that_is_not_finite_stops_before_the_step(tiny_dl):
    (weights, bias), model = start_of_training()
    tiny_dl.x[2, 0] = math.nan
    with pytest.raises(ValueError, match='^batch 2: the loss is nan: try a learning rate ten times smaller'):
        train_epoch(model, tiny_dl, [weights, bias], 1.)
    assert weights.isfinite().all() and bias.isfinite().all()
    tiny_dl.x[2, 0] = 0  # and nothing is left behind that a second try would fall over
    train_epoch(model, tiny_dl, [weights, bias], .1)
    assert weights.isfinite().all() and bias.isfinite().all()


def test_predictions_that_are_nan():
    with pytest.raises(ValueError, match='preds must be numbers, got NaN; .*try a learning rate ten times smaller'):
        batch_accuracy(torch.tensor([[math.nan]]), torch.tensor([[1]]))


def test_epoch_forgets_earlier_gradients(tiny_dl):
    ends = []
    for earlier in (False, True):
        (weights, bias), model = start_of_training()
        if earlier: calc_grad(*next(iter(tiny_dl)), model)
        train_epoch(model, tiny_dl, [weights, bias], 1.)
        ends.append(weights.detach())
    assert_close(*ends)


@pytest.mark.parametrize('lr', [0, -1, math.nan])
def test_learning_rate(tiny_dl, lr):
    (weights, bias), model = start_of_training()
    with pytest.raises(ValueError, match='lr must be a positive number'): train_epoch(model, tiny_dl, [weights, bias], lr)


def test_batches_once_only(tiny_dl):
    (weights, bias), model = start_of_training()
    once = (batch for batch in tiny_dl)
    train_epoch(model, once, [weights, bias], 1.)
    with pytest.raises(ValueError, match='a generator gives its batches only once'):
        train_epoch(model, once, [weights, bias], 1.)


def test_images_that_are_not_floats_in_tensors():
    images = torch.zeros(2, 28, 28)
    with pytest.raises(TypeError, match=r'label_pair: zeros must be floats, got uint8 .*; call .float\(\)/255'):
        label_pair(images, images.byte())
    with pytest.raises(TypeError, match='x must be a tensor, got ndarray'):
        BatchLoader(images.numpy(), torch.zeros(2, 1))


@pytest.mark.parametrize('device', ['toaster', 'cuda:99', 'hpu'])
def test_device_that_is_not_there(tiny_dl, device):
    for use in (lambda device: init_params(3, device=device),
                lambda device: validate_epoch(start_of_training()[1], tiny_dl, device)):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used here; try 'cpu'"): use(device)


def test_a_prediction_of_0_is_none_for_the_first_digit():
    assert batch_accuracy(torch.zeros(2, 1), torch.tensor([[0], [1]])) == .5
    assert batch_accuracy(torch.zeros(1, 1), torch.tensor([[0]])) == 1


def test_a_nudged_weight_moves_more_than_half_of_the_predictions_and_none_across_zero(dl):
    "As 03 says of the first weights."
    replay_state('first_predictions')
    weights, bias = (init_params(size).detach() for size in ((784, 1), 1))
    nudged = weights.clone()
    nudged[14*28 + 14] *= 1.001
    before, after = (linear1(dl.x, w, bias) for w in (weights, nudged))
    assert (before != after).float().mean() > .5 and ((before > 0) == (after > 0)).all()


def test_a_batch_has_256_images_unless_told_otherwise():
    loader = BatchLoader(torch.zeros(600, 1), torch.zeros(600, 1))
    assert [len(xb) for xb, yb in loader] == [256, 256, 88] and len(loader) == 3
