import math

import pytest
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
import torch
from torch import nn
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim, train_model
from mnist_sgd.fastai_learner import CheckLoss, fit_learner, make_dls, make_learner
from mnist_sgd.linear_model import batch_accuracy, mnist_loss
from mnist_sgd.own_handwriting import predict_image
from mnist_sgd.replay import skip_draws


@pytest.fixture(scope='module')
def dls(dl, valid_dl): return make_dls(dl.x, dl.y, valid_dl.x, valid_dl.y)


def linear():
    skip_draws(6871)
    return nn.Linear(784, 1)


@pytest.fixture(scope='module')
def fitted(dls):
    learn = make_learner(dls, linear())
    return learn, fit_learner(learn, 10, 1.)


@pytest.fixture(scope='module')
def ours(dl, valid_dl):
    model = linear()
    return model, train_model(model, dl, valid_dl, BasicOptim(model.parameters(), 1.), 10, progress=False)


def test_loaders_give_our_batches(dls, dl, valid_dl):
    for theirs, mine in ((dls.train, dl), (dls.valid, valid_dl)):
        for (xa, ya), (xb, yb) in zip(mine, theirs, strict=True):
            assert_close(xa, xb, rtol=0, atol=0)
            assert_close(ya, yb, rtol=0, atol=0)


def test_same_weights_as_train_model(fitted, ours):
    assert_close(fitted[0].model.weight, ours[0].weight)
    assert_close(fitted[0].model.bias, ours[0].bias)


def test_same_loss_and_accuracy_but_for_the_last_batch(fitted, ours, valid_dl):
    "fastai counts every image once, we count every batch once; the last batch is shorter."
    right = ((ours[0](valid_dl.x) > 0) == valid_dl.y).float().mean().item()
    assert fitted[1]['accuracy'][-1] == pytest.approx(right, abs=1e-6)
    assert fitted[1]['accuracy'][1:] == pytest.approx(ours[1]['accuracy'][1:], abs=2e-3)
    assert fitted[1]['valid_loss'][1:] == pytest.approx(ours[1]['valid_loss'][1:], abs=3e-3)


def test_history_is_what_the_learner_recorded(fitted):
    learn, history = fitted
    assert {k: len(v) for k, v in history.items()} == {'accuracy': 10, 'train_loss': 10, 'valid_loss': 10, 'seconds': 10}
    assert all(s > 0 for s in history['seconds'])
    assert [history[k][-1] for k in ('train_loss', 'valid_loss', 'accuracy')] == list(learn.recorder.values[-1])


def test_prints_nothing(dls, capfd):
    fit_learner(make_learner(dls, linear()), 1, 1.)
    assert capfd.readouterr().out == ''
    fit_learner(make_learner(dls, linear()), 1, 1., progress=True)
    assert 'batch_accuracy' in capfd.readouterr().out


def test_our_loaders_will_do(dl, valid_dl, fitted):
    learn = Learner(DataLoaders(dl, valid_dl), linear(), opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
    history = fit_learner(learn, 10, 1.)
    for what in ('accuracy', 'train_loss', 'valid_loss'): assert history[what] == fitted[1][what]


def test_loss_that_is_not_finite(dl, valid_dl):
    x = dl.x[:600].clone()
    x[300] = math.nan
    learn = make_learner(make_dls(x, dl.y[:600], valid_dl.x, valid_dl.y), linear())
    with pytest.raises(ValueError, match='^epoch 1, batch 2: the loss is nan: try a learning rate ten times smaller'):
        fit_learner(learn, 2, 1.)
    assert learn.model.weight.isfinite().all()
    assert issubclass(CheckLoss, Callback)


def test_refuses(dls, dl, valid_dl):
    with pytest.raises(ValueError, match=r'make_dls: y must have the shape \(n, ...\), where x'):
        make_dls(dl.x[:3], dl.y[:2], valid_dl.x, valid_dl.y)
    with pytest.raises(ValueError, match='valid_x is empty'):
        make_dls(dl.x, dl.y, valid_dl.x[:0], valid_dl.y[:0])
    for batch_size in (0, -1, 2.5):
        with pytest.raises(ValueError, match='batch_size must be a whole number from 1'):
            make_dls(dl.x, dl.y, valid_dl.x, valid_dl.y, batch_size)
    for metrics in ([], [batch_accuracy, mnist_loss]):
        with pytest.raises(ValueError, match='needs a Learner with one metric'):
            fit_learner(make_learner(dls, linear(), metrics=metrics), 1, 1.)
    for model in (nn.Identity(), linear().requires_grad_(False)):
        with pytest.raises(ValueError, match='no parameter that learns'): fit_learner(make_learner(dls, model), 1, 1.)
    with pytest.raises(TypeError, match='model must be an nn.Module, .*got function'): make_learner(dls, lambda x: x)
    with pytest.raises(ValueError, match="device 'toaster'"): make_dls(dl.x, dl.y, valid_dl.x, valid_dl.y, device='toaster')
    for epochs in (0, 1.5):
        with pytest.raises(ValueError, match='epochs must be'): fit_learner(make_learner(dls, linear()), epochs, 1.)
    for lr in (0, math.nan):
        with pytest.raises(ValueError, match='lr must be'): fit_learner(make_learner(dls, linear()), 1, lr)


def test_shuffled_loaders_and_what_else_fastai_offers(dl, valid_dl):
    dls = make_dls(dl.x, dl.y, valid_dl.x, valid_dl.y, shuffle=True)
    (first, y), (again, _) = next(iter(dls.train)), next(iter(dls.train))
    assert len(y.unique()) == 2 and not first.equal(again)
    torch.testing.assert_close(torch.cat([xb for xb, _ in dls.valid]), valid_dl.x)
    learn = make_learner(dls, linear())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1.)
    assert learn.recorder.values[0][2] > .95
    preds, targets = learn.get_preds()
    torch.testing.assert_close(preds, learn.model(valid_dl.x).detach())
    torch.testing.assert_close(targets, valid_dl.y)
    assert predict_image(valid_dl.x[2000].view(28, 28), learn.model)[0] == 0 and 'learn.predict' in make_learner.__doc__


def test_batches_come_on_the_device_that_was_named(tiny_dl):
    dls = make_dls(tiny_dl.x, tiny_dl.y, tiny_dl.x, tiny_dl.y, 2, 'meta')
    assert all(t.is_meta for dl in dls.loaders for batch in dl for t in batch) and dls.device.type == 'meta'
