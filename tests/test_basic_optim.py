import math

import pytest
import torch
from fastai.optimizer import SGD
from hypothesis import given, strategies as st
from torch import nn
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim, train_epoch, train_model
from mnist_sgd.linear_model import BatchLoader, batch_accuracy, train_epoch as train_epoch_by_hand
from mnist_sgd.replay import skip_draws

NOTES_TWENTY = [0.4932, 0.852, 0.8335, 0.9116, 0.9326, 0.9473, 0.9555, 0.9624, 0.9648, 0.9668,
                0.9692, 0.9712, 0.9731, 0.9746, 0.9761, 0.9765, 0.9775, 0.978, 0.9785, 0.9785]


def linear(k=5139):
    skip_draws(k)
    return nn.Linear(784, 1)


def test_step_by_step_as_torch(dl):
    ours, theirs = linear(), linear()
    opt, torch_opt = BasicOptim(ours.parameters(), lr=1.), torch.optim.SGD(theirs.parameters(), lr=1.)
    for xb, yb in dl:
        for model, o in ((ours, opt), (theirs, torch_opt)):
            (model(xb) - yb).abs().mean().backward()
            o.step()
            o.zero_grad()
        assert_close(ours.weight, theirs.weight)
        assert ours.weight.grad is None


@given(st.floats(1e-4, 10), st.integers(0, 2**31))
def test_any_learning_rate_as_torch(lr, seed):
    torch.manual_seed(seed)
    ours = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    theirs = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3)
    for model, opt in ((ours, BasicOptim(ours.parameters(), lr)), (theirs, torch.optim.SGD(theirs.parameters(), lr))):
        model(x).sum().backward()
        opt.step()
    for a, b in zip(ours.parameters(), theirs.parameters()): assert_close(a, b)


def test_parameter_without_gradient_is_left_alone():
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    opt = BasicOptim([a, b], lr=.5)
    a.sum().backward()
    opt.step()
    assert (a.tolist(), b.tolist()) == ([.5, .5], [1, 1])


def test_refuses():
    with pytest.raises(ValueError, match='params is empty'): BasicOptim([], 1.)
    with pytest.raises(TypeError, match='iterable of tensors'): BasicOptim(torch.zeros(2, requires_grad=True), 1.)
    with pytest.raises(TypeError, match=r'params\[0\] must be a tensor, got str'): BasicOptim(['weights'], 1.)
    with pytest.raises(ValueError, match='has no gradient'): BasicOptim([torch.zeros(2)], 1.)
    for lr in (0, -.1, math.nan):
        with pytest.raises(ValueError, match='lr must be a positive number'): BasicOptim(linear().parameters(), lr)


@pytest.fixture(scope='module')
def runs(dl, valid_dl):
    def run(opt_func, k=5139):
        model = linear(k)
        return model, train_model(model, dl, valid_dl, opt_func(model.parameters(), lr=1.), 20, progress=False)
    return {'ours': run(BasicOptim), 'torch': run(torch.optim.SGD), 'fastai': run(SGD), 'notes': run(SGD, 6006)}


@pytest.mark.parametrize('theirs', ['torch', 'fastai'])
def test_same_weights_and_numbers_with_each_optimiser(runs, theirs):
    for name in ('weight', 'bias'): assert_close(getattr(runs['ours'][0], name), getattr(runs[theirs][0], name))
    for what in ('accuracy', 'train_loss', 'valid_loss'):
        assert runs['ours'][1][what] == pytest.approx(runs[theirs][1][what], abs=1e-6)


def test_same_weights_as_the_loop_by_hand(runs, dl):
    model = linear()
    for _ in range(20): train_epoch_by_hand(model, dl, model.parameters(), lr=1.)
    assert_close(model.weight, runs['ours'][0].weight)


def test_twenty_numbers_of_the_notes(runs):
    assert runs['notes'][1]['accuracy'] == pytest.approx(NOTES_TWENTY, abs=4e-4)


def test_history(runs, valid_dl):
    model, history = runs['ours']
    assert {k: len(v) for k, v in history.items()} == {'accuracy': 20, 'train_loss': 20, 'valid_loss': 20, 'seconds': 20}
    assert all(s > 0 for s in history['seconds'])
    right = torch.stack([batch_accuracy(model(x), y) for x, y in valid_dl]).mean().item()
    assert history['accuracy'][-1] == right
    assert history['train_loss'][-1] < history['train_loss'][0]


def test_one_thread_gives_the_same_numbers(dl, valid_dl, runs):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        model = linear()
        history = train_model(model, dl, valid_dl, BasicOptim(model.parameters(), 1.), 20, progress=False)
    finally: torch.set_num_threads(threads)
    assert history['accuracy'] == runs['ours'][1]['accuracy']


def test_device_moves_module_and_batches(tiny_dl):
    model = nn.Linear(784, 1)
    opt = BasicOptim(model.parameters(), 1.)
    with pytest.raises(ValueError, match='opt moves no parameter of the model'): # to move it there makes new parameters
        train_model(model, tiny_dl, tiny_dl, opt, 1, device='meta', progress=False)
    assert model.weight.device.type == 'meta'
    model = nn.Linear(784, 1)
    opt = BasicOptim(model.parameters(), 1.)
    assert train_model(model, tiny_dl, tiny_dl, opt, 1, device='cpu', progress=False)['accuracy']


def test_module_is_in_the_right_mode(tiny_dl):
    seen = []
    class Watch(nn.Linear):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x)
    model = Watch(784, 1)
    train_model(model, tiny_dl, tiny_dl, BasicOptim(model.parameters(), 1.), 1, progress=False)
    assert seen[2:] == [True]*2 + [False]*2 and not model.training


def test_any_function_is_a_model(tiny_dl):
    weights = torch.zeros(784, 1, requires_grad=True)
    history = train_model(lambda xb: xb@weights, tiny_dl, tiny_dl, BasicOptim([weights], .1), 3, progress=False)
    assert len(history['accuracy']) == 3 and weights.any()


def test_progress_bar_is_on_stderr(tiny_dl, capsys):
    model = nn.Linear(784, 1)
    train_model(model, tiny_dl, tiny_dl, BasicOptim(model.parameters(), 1.), 1)
    printed = capsys.readouterr()
    assert printed.out == '' and 'training' in printed.err


@pytest.mark.parametrize('epochs', [0, -1, 1.5, '3', None, True])
def test_epochs(tiny_dl, epochs):
    model = nn.Linear(784, 1)
    with pytest.raises(ValueError, match='epochs must be a whole number from 1, got'):
        train_model(model, tiny_dl, tiny_dl, BasicOptim(model.parameters(), 1.), epochs)


def test_bad_data(tiny_dl):
    model = nn.Linear(784, 1)
    opt = BasicOptim(model.parameters(), 1.)
    with pytest.raises(ValueError, match='the loader is empty'): train_epoch(model, [], opt)
    with pytest.raises(ValueError, match='the loader is empty'): train_model(model, tiny_dl, [], opt, 1, progress=False)
    with pytest.raises(ValueError, match='must have the shape of predictions'):
        train_epoch(model, BatchLoader(tiny_dl.x, tiny_dl.y.squeeze()), opt)
    with pytest.raises(ValueError, match='targets must be 0 or 1'):
        train_epoch(model, BatchLoader(tiny_dl.x, tiny_dl.y*4 + 3), opt)
    tiny_dl.x[3] = math.inf
    with pytest.raises(ValueError, match='epoch 1, batch 2: the loss is nan'):
        train_model(model, tiny_dl, tiny_dl, opt, 3, progress=False)
    assert model.weight.isfinite().all()


@pytest.mark.parametrize('opt_func', [BasicOptim, torch.optim.SGD, SGD])
@pytest.mark.parametrize('trained_before', [False, True])
def test_optimiser_of_another_model(tiny_dl, opt_func, trained_before):
    old, new = nn.Linear(784, 1), nn.Linear(784, 1)
    opt = opt_func(old.parameters(), lr=1.)
    if trained_before: train_epoch(old, tiny_dl, opt)
    with pytest.raises(ValueError, match='no parameter has a gradient: call backward.* for the model that you train'):
        train_epoch(new, tiny_dl, opt)


@pytest.mark.parametrize('opt', ['sgd', None, 1.])
def test_no_optimiser(tiny_dl, opt):
    with pytest.raises(TypeError, match=r'opt must be an optimiser, such as BasicOptim.*, got (str|NoneType|float)'):
        train_model(nn.Linear(784, 1), tiny_dl, tiny_dl, opt, 1, progress=False)
