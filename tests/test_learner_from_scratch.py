import json, math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders
from fastai.optimizer import SGD
from torch import nn, tensor
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim
from mnist_sgd.fastai_learner import fit_learner, make_dls, make_learner
from mnist_sgd.learner_from_scratch import EarlyStop, Learner, LRFinder, Progress, StopFit, check_callbacks, set_lr
from mnist_sgd.linear_model import BatchLoader, batch_accuracy, mnist_loss
from mnist_sgd.neural_net import make_net
from mnist_sgd.replay import replay_state

PUBLISHED = json.loads((Path(__file__).parent/'references.json').read_text(encoding='utf-8'))


def linear(): return nn.Linear(784, 1)
def net(): return make_net(784, 30, 1)


@pytest.mark.parametrize('step, make_model, epochs, lr', [
    ('fastai_learner', linear, 10, 1.), ('neural_net', net, 40, .1)])
def test_table_is_the_published_one_and_that_of_fastai(step, make_model, epochs, lr, dl, valid_dl, one_thread):
    replay_state(step)
    ours = Learner((dl, valid_dl), make_model(), mnist_loss, metrics=batch_accuracy)
    ours.fit(epochs, lr)
    assert_close(tensor(ours.recorder.values), tensor(PUBLISHED[step]), rtol=0, atol=1e-6)
    replay_state(step)
    theirs = make_learner(DataLoaders(dl, valid_dl), make_model())
    fit_learner(theirs, epochs, lr)
    assert_close(tensor(ours.recorder.values), tensor([list(row) for row in theirs.recorder.values]), rtol=0, atol=1e-6)
    assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=0, atol=1e-6)


def test_takes_the_loaders_of_fastai(dl, valid_dl):
    replay_state('fastai_learner')
    learn = Learner(make_dls(dl.x, dl.y, valid_dl.x, valid_dl.y), linear(), mnist_loss, metrics=[batch_accuracy])
    learn.fit(1)
    assert_close(tensor(learn.recorder.values), tensor(PUBLISHED['fastai_learner'][:1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize('opt_func', [SGD, torch.optim.SGD])
def test_any_optimiser(opt_func, tiny_dl):
    def trained(opt_func):
        torch.manual_seed(0)
        learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, opt_func)
        learn.fit(3, .1)
        return learn.model.weight
    assert_close(trained(opt_func), trained(BasicOptim))


def test_history_has_a_name_for_each_column(tiny_dl):
    learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, metrics=[batch_accuracy, nn.L1Loss()])
    learn.fit(2)
    history = learn.recorder.history
    assert list(history) == ['train_loss', 'valid_loss', 'batch_accuracy', 'L1Loss']
    assert all(len(column) == 2 for column in history.values())
    learn.fit(1)
    assert len(learn.recorder.values) == 1 # a second fit begins a new table


def test_means_are_over_images_not_batches(tiny_dl):
    valid = BatchLoader(tiny_dl.x[:3], tensor([[1], [1], [0]]), 2)
    model = linear()
    with torch.no_grad(): model.weight.zero_(), model.bias.fill_(1.)
    learn = Learner((tiny_dl, valid), model, lambda preds, yb: mnist_loss(preds, yb)*0, metrics=batch_accuracy)
    learn.fit(1)
    assert learn.recorder.values[0][2] == pytest.approx(2/3)


def test_an_earlier_gradient_is_forgotten(tiny_dl):
    def trained(grad):
        torch.manual_seed(0)
        model = linear()
        model.weight.grad = grad
        Learner((tiny_dl, tiny_dl), model, mnist_loss).fit(1)
        return model.weight
    assert_close(trained(torch.ones(1, 784)), trained(None), rtol=0, atol=0)


def test_metrics_may_return_plain_numbers(tiny_dl):
    learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, metrics=lambda preds, yb: len(preds))
    learn.fit(1)
    assert learn.recorder.values[0][2] == 2


def test_finder_refuses_a_loss_below_zero(tiny_dl):
    with pytest.raises(RuntimeError, match='LRFinder failed in after_batch: ValueError: the finder needs a loss that is never negative'):
        Learner((tiny_dl, tiny_dl), linear(), lambda preds, yb: preds.mean()*0 - 1).fit(1, cbs=[LRFinder()])


def test_recorder_before_any_fit_is_empty(tiny_dl):
    recorder = Learner((tiny_dl, tiny_dl), linear(), mnist_loss).recorder
    assert (list(recorder.values), recorder.history) == ([], {})


def test_validation_leaves_no_gradient_and_trains_nothing(tiny_dl):
    class Look:
        def after_batch(self, learn): seen.append((learn.training, learn.preds.requires_grad, learn.model.training))
    seen, model = [], linear()
    Learner((tiny_dl, tiny_dl), model, mnist_loss, cbs=[Look()]).fit(1)
    assert seen == [(True, True, True)]*2 + [(False, False, False)]*2
    assert model.weight.grad is None and torch.is_grad_enabled()


class Raises:
    def __init__(self, moment, error):
        def fail(learn): raise error
        setattr(self, moment, fail)


class Ends:
    calls = 0
    def after_fit(self, learn): self.calls += 1


@pytest.mark.parametrize('moment', ['before_fit', 'before_epoch', 'before_batch', 'after_batch', 'after_epoch', 'after_fit'])
def test_a_callback_that_raises_is_named_with_its_moment(moment, tiny_dl):
    learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss)
    with pytest.raises(RuntimeError, match=f'^the callback Raises failed in {moment}: KeyError: 7$') as stopped:
        learn.fit(1, cbs=[Raises(moment, KeyError(7))])
    assert isinstance(stopped.value.__cause__, KeyError) and torch.is_grad_enabled()
    learn.fit(1) # the callback was for that time only


@pytest.mark.parametrize('error', [KeyError(7), KeyboardInterrupt()])
def test_after_fit_is_called_however_it_ends(error, tiny_dl):
    ends = Ends()
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=[ends]).fit(1, cbs=[Raises('after_epoch', error)])
    assert ends.calls == 1


def test_stop_keeps_what_was_done(tiny_dl):
    learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss)
    before, ends = learn.model.weight.detach().clone(), Ends()
    learn.fit(9, cbs=[Raises('after_epoch', StopFit()), ends])
    assert len(learn.recorder.values) == ends.calls == 1
    assert not torch.equal(learn.model.weight, before)


def test_early_stop_ends_a_training_that_gets_worse(tiny_dl):
    def worse(preds, yb): # the validation loss rises by 1 an epoch
        return preds.mean()*0 + (learn.epoch if not learn.training else 0)
    learn = Learner((tiny_dl, tiny_dl), linear(), worse, cbs=[EarlyStop(patience=4)])
    learn.fit(99)
    assert [row[1] for row in learn.recorder.values] == [1, 2, 3, 4, 5]


def test_finder_stops_before_the_loss_explodes_and_puts_the_model_back(dl, valid_dl, one_thread):
    torch.manual_seed(42)
    def log_loss(preds, yb): return F.binary_cross_entropy_with_logits(preds, yb.float())
    learn, finder = Learner((BatchLoader(dl.x, dl.y, shuffle=True), valid_dl), net(), log_loss), LRFinder()
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    learn.fit(4, cbs=[finder])
    assert_close(learn.model.state_dict(), before, rtol=0, atol=0)
    assert len(finder.lrs) == len(finder.losses) < 150
    assert finder.lrs[0] == pytest.approx(1e-3) and finder.lrs[-1] < 100
    assert finder.losses[-1] > 4*min(finder.losses) and all(loss <= 4*min(finder.losses[:i + 1]) for i, loss in enumerate(finder.losses[:-1]))
    ratios = [b/a for a, b in zip(finder.lrs, finder.lrs[1:])]
    assert ratios == pytest.approx([1e5**(1/149)]*len(ratios))


def test_progress_bar_counts_every_batch_and_disappears(tiny_dl, capsys):
    learn, bar = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, metrics=batch_accuracy), Progress()
    learn.fit(3, cbs=[bar])
    assert bar.bar.n == bar.bar.total == 12
    printed = capsys.readouterr()
    assert printed.out == '' and 'batch_accuracy=' in printed.err


def test_the_learner_is_well_under_a_hundred_lines():
    import inspect
    assert len(inspect.getsource(Learner).splitlines()) < 100


def test_refuses(tiny_dl):
    pair = tiny_dl, tiny_dl
    class Misspelt:
        def after_epcoh(self, learn): pass
    with pytest.raises(TypeError, match='needs an nn.Module, .* got function'): Learner(pair, lambda xb: xb, mnist_loss)
    for dls in ([tiny_dl], [tiny_dl]*3, tiny_dl, None):
        with pytest.raises(TypeError, match=f'dls must be a pair of loaders, .* got {type(dls).__name__}'): Learner(dls, linear(), mnist_loss)
    for kwargs in ({'loss_func': 'mse'}, {'loss_func': mnist_loss, 'opt_func': 3}, {'loss_func': mnist_loss, 'metrics': [None]}):
        with pytest.raises(TypeError, match='loss_func, opt_func and metrics must be functions, got'): Learner(pair, linear(), **kwargs)
    with pytest.raises(ValueError, match='two columns have one name: train_loss, valid_loss, mnist_loss, mnist_loss'):
        Learner(pair, linear(), mnist_loss, metrics=[mnist_loss]*2).recorder.before_fit(Learner(pair, linear(), mnist_loss, metrics=[mnist_loss]*2))
    with pytest.raises(TypeError, match=r'a metric must return a single number, got shape \(2, 1\)'):
        Learner(pair, linear(), mnist_loss, metrics=lambda preds, yb: preds).fit(1)
    with pytest.raises(ValueError, match='the loss has no gradient: call requires_grad_'):
        Learner(pair, linear(), lambda preds, yb: preds.detach().mean()).fit(1)
    for cbs, got in ((Progress(), 'Progress'), (Progress, 'Progress'), (3, 'int')):
        with pytest.raises(TypeError, match=f'cbs must be a list of callbacks, .* got {got}'): Learner(pair, linear(), mnist_loss, cbs=cbs)
    with pytest.raises(ValueError, match="device 'toaster' cannot be used"): Learner(pair, linear(), mnist_loss, device='toaster')
    with pytest.raises(TypeError, match=r'^pass EarlyStop\(\), an object, not the class EarlyStop$'): check_callbacks([EarlyStop])
    with pytest.raises(TypeError, match='^Misspelt has a method after_epcoh, but the moments are before_fit, '): check_callbacks([Misspelt()])
    with pytest.raises(TypeError, match='^int has no method, but the moments are'): Learner(pair, linear(), mnist_loss, cbs=[3])
    learn = Learner(pair, linear(), mnist_loss)
    for epochs in (0, 1.5, '3'):
        with pytest.raises(ValueError, match='epochs must be a whole number from 1'): learn.fit(epochs)
    for lr in (0, -1., math.nan):
        with pytest.raises(ValueError, match='lr must be a positive number'): learn.fit(1, lr)
    with pytest.raises(ValueError, match='^the loss is nan at epoch 1, batch 2: '):
        Learner((BatchLoader(tiny_dl.x*tensor([[1.], [1.], [math.nan], [1.]]), tiny_dl.y, 2), tiny_dl), linear(), mnist_loss).fit(1)
    with pytest.raises(ValueError, match='the loader is empty'): Learner((tiny_dl, []), linear(), mnist_loss).fit(1)
    with pytest.raises(ValueError, match='patience must be a whole number from 1'): EarlyStop(0)
    for kwargs, message in (({'start': 0}, 'lr must be'), ({'start': 1., 'stop': 1.}, 'stop must be above start'), ({'batches': 1}, 'batches must be')):
        with pytest.raises(ValueError, match=message): LRFinder(**kwargs)
    with pytest.raises(TypeError, match='opt must be an optimiser, such as learn.opt, got Linear'): set_lr(linear(), .1)
    with pytest.raises(TypeError, match='got Learner'): set_lr(learn, .1)
