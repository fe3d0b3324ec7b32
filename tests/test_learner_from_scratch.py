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
from mnist_sgd.learner_from_scratch import EarlyStop, Learner, LRFinder, Metrics, Progress, Recorder, ToDevice, set_lr
from mnist_sgd.linear_model import BatchLoader, batch_accuracy, mnist_loss
from mnist_sgd.neural_net import make_net
from mnist_sgd.replay import replay_state

PUBLISHED = json.loads((Path(__file__).parent/'references.json').read_text(encoding='utf-8'))


def linear(): return nn.Linear(784, 1)
def net(): return make_net(784, 30, 1)
def rows(history): return tensor(list(zip(*history.values())))
def shown(*metrics): return [Recorder(), Metrics(*metrics)]


@pytest.mark.parametrize('step, make_model, epochs, lr', [
    ('fastai_learner', linear, 10, 1.), ('neural_net', net, 40, .1)])
def test_table_is_the_published_one_and_that_of_fastai(step, make_model, epochs, lr, dl, valid_dl, one_thread):
    replay_state(step)
    ours = Learner((dl, valid_dl), make_model(), mnist_loss, cbs=shown(batch_accuracy))
    history = ours.fit(epochs, lr)
    assert list(history) == ['train_loss', 'valid_loss', 'batch_accuracy']
    assert_close(rows(history), tensor(PUBLISHED[step]), rtol=0, atol=1e-6)
    replay_state(step)
    theirs = make_learner(DataLoaders(dl, valid_dl), make_model())
    fit_learner(theirs, epochs, lr)
    assert_close(rows(history), tensor([list(row) for row in theirs.recorder.values]), rtol=0, atol=1e-6)
    assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=0, atol=1e-6)


def test_takes_the_loaders_of_fastai(dl, valid_dl):
    replay_state('fastai_learner')
    learn = Learner(make_dls(dl.x, dl.y, valid_dl.x, valid_dl.y), linear(), mnist_loss, cbs=shown(batch_accuracy))
    assert_close(rows(learn.fit(1)), tensor(PUBLISHED['fastai_learner'][:1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize('opt_func', [SGD, torch.optim.SGD])
def test_any_optimiser(opt_func, tiny_dl):
    def trained(opt_func):
        torch.manual_seed(0)
        learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, opt_func)
        learn.fit(3, .1)
        return learn.model.weight
    assert_close(trained(opt_func), trained(BasicOptim))


def test_history_has_a_name_for_each_column(tiny_dl):
    learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=shown(batch_accuracy, nn.L1Loss()))
    history = learn.fit(2)
    assert list(history) == ['train_loss', 'valid_loss', 'batch_accuracy', 'L1Loss']
    assert all(len(column) == 2 for column in history.values())
    assert {len(column) for column in learn.fit(1).values()} == {1} # a second fit begins a new table
    assert len(history['L1Loss']) == 2 # and leaves the first as it was


def test_without_callbacks_nothing_is_logged(tiny_dl):
    assert Learner((tiny_dl, tiny_dl), linear(), mnist_loss).fit(1) == {}


def test_metrics_are_of_the_whole_set_not_means_of_batches(tiny_dl):
    def f1(preds, targets): return 2*((preds > 0) & (targets == 1)).sum()/((preds > 0).sum() + (targets == 1).sum())
    valid = BatchLoader(tiny_dl.x[:3], tensor([[1], [1], [0]]), 2)
    model = linear()
    with torch.no_grad(): model.weight.zero_(), model.bias.fill_(1.)
    history = Learner((tiny_dl, valid), model, lambda preds, yb: mnist_loss(preds, yb)*0, cbs=shown(batch_accuracy, f1)).fit(1)
    assert history['batch_accuracy'] == pytest.approx([2/3]) and history['f1'] == pytest.approx([.8])


def test_validation_loss_is_a_mean_over_images(tiny_dl):
    valid = BatchLoader(tiny_dl.x[:3], tiny_dl.y[:3], 2)
    model = linear()
    history = Learner((tiny_dl, valid), model, mnist_loss, cbs=[Recorder()]).fit(1)
    assert history['valid_loss'] == pytest.approx([mnist_loss(model(valid.x), valid.y).item()], abs=1e-6)


@pytest.mark.parametrize('momentum', [0, .9])
def test_a_second_fit_goes_on_as_one_long_fit_would(momentum, tiny_dl):
    def trained(*fits, **kwargs):
        torch.manual_seed(0)
        learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, lambda params, lr: torch.optim.SGD(params, lr, momentum=momentum))
        for epochs in fits: learn.fit(epochs, .1, **kwargs)
        return learn.model.weight
    assert_close(trained(2, 3), trained(5), rtol=0, atol=0)
    assert torch.equal(trained(2, 3, reset_opt=True), trained(5)) == (momentum == 0)


def test_a_second_fit_of_fastai_s_optimiser_takes_the_new_rate(tiny_dl):
    learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, SGD)
    learn.fit(1, .1)
    opt = learn.opt
    learn.fit(1, .3)
    assert learn.opt is opt and opt.hypers[-1]['lr'] == .3


def test_rates_of_groups_and_frozen_parameters_stay_as_they_are(tiny_dl):
    model = nn.Sequential(nn.Linear(784, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    frozen, moved = model[0].weight.clone(), model[1].weight.detach().clone()
    def in_groups(params, lr): return torch.optim.SGD([{'params': [p], 'lr': lr/(10**i)} for i, p in enumerate(params)], lr)
    learn = Learner((tiny_dl, tiny_dl), model, mnist_loss, in_groups)
    learn.fit(1, .5)
    assert [group['lr'] for group in learn.opt.param_groups] == [.5, .05]
    assert torch.equal(model[0].weight, frozen) and not torch.equal(model[1].weight, moved)


def test_gradients_can_be_changed_before_the_step(tiny_dl):
    class Zero:
        def after_backward(self, learn):
            for p in learn.model.parameters(): p.grad.zero_()
    model = linear()
    before = model.weight.detach().clone()
    Learner((tiny_dl, tiny_dl), model, mnist_loss, cbs=[Zero()]).fit(2)
    assert_close(model.weight.detach(), before, rtol=0, atol=0)


def test_an_earlier_gradient_is_forgotten(tiny_dl):
    def trained(grad):
        torch.manual_seed(0)
        model = linear()
        model.weight.grad = grad
        Learner((tiny_dl, tiny_dl), model, mnist_loss).fit(1)
        return model.weight
    assert_close(trained(torch.ones(1, 784)), trained(None), rtol=0, atol=0)


def test_metrics_may_return_plain_numbers(tiny_dl):
    assert Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=[Metrics(lambda preds, yb: len(preds))]).fit(1) == {'<lambda>': [4.]}


def test_validation_leaves_no_gradient_and_trains_nothing(tiny_dl):
    class Look:
        def after_batch(self, learn): seen.append((learn.training, learn.preds.requires_grad, learn.model.training))
    seen, model = [], linear()
    Learner((tiny_dl, tiny_dl), model, mnist_loss, cbs=[Look()]).fit(1)
    assert seen == [(True, True, True)]*2 + [(False, False, False)]*2
    assert model.weight.grad is None and torch.is_grad_enabled()


MOMENTS = ['before_fit', 'before_epoch', 'before_batch', 'after_backward', 'after_batch', 'after_epoch', 'after_fit']


class At:
    "Calls a function at a moment."
    def __init__(self, moment, function): setattr(self, moment, function)


class Ends:
    calls = 0
    def after_fit(self, learn): self.calls += 1


def fail(learn): raise KeyError(7)
def stop(learn): learn.stop = True


@pytest.mark.parametrize('moment', MOMENTS[1:-1])
def test_after_fit_is_told_when_a_callback_fails(moment, tiny_dl):
    learn, ends = Learner((tiny_dl, tiny_dl), linear(), mnist_loss), Ends()
    with pytest.raises(KeyError): learn.fit(1, cbs=[ends, At(moment, fail)])
    assert ends.calls == 1 and torch.is_grad_enabled()
    learn.fit(1) # the callback was for that time only


def test_after_fit_is_told_when_the_reader_interrupts(tiny_dl):
    def interrupt(learn): raise KeyboardInterrupt
    learn, ends = Learner((tiny_dl, tiny_dl), linear(), mnist_loss), Ends()
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=[ends, At('after_batch', interrupt)])
    assert ends.calls == 1


@pytest.mark.parametrize('moment, epochs, batches', [('before_fit', 0, 0), ('before_epoch', 0, 0), ('before_batch', 0, 1), ('after_backward', 0, 1),
                                                     ('after_batch', 0, 1), ('after_epoch', 1, 4)])
def test_a_stop_ends_it_and_those_behind_are_still_told(moment, epochs, batches, tiny_dl):
    class Count:
        heard = batches = 0
        def after_batch(self, learn): self.batches += 1
    count = Count()
    def hear(learn): count.heard += 1
    setattr(count, moment, hear) if moment != 'after_batch' else None
    learn, ends = Learner((tiny_dl, tiny_dl), linear(), mnist_loss), Ends()
    history = learn.fit(9, cbs=[At(moment, stop), Recorder(), count, ends])
    assert (len(history.get('train_loss', [])), count.batches, ends.calls) == (epochs, batches, 1)
    assert count.heard == (moment != 'after_batch')
    assert len(learn.fit(2, cbs=[Recorder()])['train_loss']) == 2 # the stop was for that fit


def test_early_stop_watches_what_it_is_told_to(tiny_dl):
    def worse(preds, yb): return 1/learn.epoch
    learn = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=shown(worse))
    assert len(learn.fit(9, cbs=[EarlyStop('worse', patience=2)])['worse']) == 3
    for cbs, logged in (([EarlyStop('accuracy')], 'only train_loss, valid_loss, worse was logged'),):
        with pytest.raises(ValueError, match=f'^epoch 1: EarlyStop watches accuracy, but before it {logged}$'): learn.fit(1, cbs=cbs)


def test_early_stop_that_restores_gives_the_weights_of_the_best_epoch(tiny_dl):
    class Keep:
        def before_fit(self, learn): self.kept = []
        def after_epoch(self, learn): self.kept.append(learn.model.weight.detach().clone())
    def by_epoch(preds, yb): return [.5, .9, .7, .6, .8][learn.epoch - 1]
    keep, learn = Keep(), Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=shown(by_epoch))
    learn.fit(5, cbs=[keep, EarlyStop('by_epoch', 9, restore_best=True)])
    assert_close(learn.model.weight.detach(), keep.kept[1], rtol=0, atol=0)


def test_early_stop_ends_a_training_that_gets_worse(tiny_dl):
    def worse(preds, yb): # the validation loss rises by 1 an epoch
        return preds.mean()*0 + (learn.epoch if not learn.training else 0)
    learn = Learner((tiny_dl, tiny_dl), linear(), worse, cbs=[Recorder(), EarlyStop(patience=4)])
    assert learn.fit(99)['valid_loss'] == [1, 2, 3, 4, 5]


def test_finder_stops_before_the_loss_explodes_and_puts_the_model_back(dl, valid_dl, one_thread):
    torch.manual_seed(42)
    def log_loss(preds, yb): return F.binary_cross_entropy_with_logits(preds, yb.float())
    learn, finder = Learner((BatchLoader(dl.x, dl.y, shuffle=True), valid_dl), net(), log_loss), LRFinder()
    before, random = {name: value.clone() for name, value in learn.model.state_dict().items()}, torch.get_rng_state()
    learn.fit(4, cbs=[finder])
    assert torch.equal(torch.get_rng_state(), random)
    assert finder.suggest() == finder.lrs[finder.losses.index(min(finder.losses))]/3 and .1 < finder.suggest() < 1
    assert finder.plot().get_xscale() == 'log'
    assert_close(learn.model.state_dict(), before, rtol=0, atol=0)
    assert len(finder.lrs) == len(finder.losses) < 150
    assert finder.lrs[0] == pytest.approx(1e-3) and finder.lrs[-1] < 100
    assert finder.losses[-1] > 4*min(finder.losses) and all(loss <= 4*min(finder.losses[:i + 1]) for i, loss in enumerate(finder.losses[:-1]))
    ratios = [b/a for a, b in zip(finder.lrs, finder.lrs[1:])]
    assert ratios == pytest.approx([1e5**(1/149)]*len(ratios))


@pytest.mark.parametrize('opt_func', [BasicOptim, SGD, lambda params, lr: torch.optim.SGD(params, lr, momentum=.9)])
def test_a_training_goes_on_after_the_finder_as_if_it_had_not_been(opt_func, tiny_dl):
    def trained(*finders):
        torch.manual_seed(0)
        learn = Learner((BatchLoader(tiny_dl.x, tiny_dl.y, 2, shuffle=True), tiny_dl), nn.Sequential(nn.Dropout(.2), linear()), mnist_loss, opt_func)
        learn.fit(2, .1)
        for finder in finders: learn.fit(9, cbs=[finder])
        learn.fit(2, .1)
        return learn.model[1].weight
    assert_close(trained(LRFinder(batches=8)), trained(), rtol=0, atol=0)


def test_finder_of_a_loss_below_zero_and_of_one_rate(tiny_dl):
    finder = LRFinder(start=.1, stop=1., batches=3)
    Learner((tiny_dl, tiny_dl), linear(), lambda preds, yb: preds.mean()*0 - 1).fit(9, cbs=[finder])
    assert finder.lrs == pytest.approx([.1, .1**.5, 1.])
    one = LRFinder(batches=1)
    Learner((tiny_dl, tiny_dl), linear(), mnist_loss).fit(1, cbs=[one])
    assert one.lrs == pytest.approx([1e-3])


def test_progress_bar_counts_every_batch_and_disappears(tiny_dl, capsys):
    learn, bar = Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=shown(batch_accuracy)), Progress()
    learn.fit(3, cbs=[bar])
    assert bar.bar.n == bar.bar.total == 12
    printed = capsys.readouterr()
    assert printed.out == '' and 'batch_accuracy=' in printed.err


def test_a_device_is_a_callback(tiny_dl):
    seen = []
    cbs = [ToDevice('cpu'), At('after_batch', lambda learn: seen.append((learn.xb.device.type, learn.preds.device.type)))]
    Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=cbs).fit(1)
    assert seen == [('cpu', 'cpu')]*4
    meta, moved = ToDevice('meta'), Learner((tiny_dl, tiny_dl), linear(), mnist_loss) # which has shapes and no numbers
    moved.xb, moved.yb = tiny_dl.x, tiny_dl.y
    for at in (meta.before_fit, meta.before_batch): at(moved)
    assert moved.model.weight.is_meta and moved.xb.is_meta and moved.yb.is_meta


def test_refuses(tiny_dl):
    pair = tiny_dl, tiny_dl
    class Misspelt:
        def after_epcoh(self, learn): pass
    with pytest.raises(TypeError, match='Learner: model must be an nn.Module, .* got function'): Learner(pair, lambda xb: xb, mnist_loss)
    for dls in ([tiny_dl], [tiny_dl]*3, tiny_dl, None):
        with pytest.raises(TypeError, match=f'dls must be a pair of loaders, .* got {type(dls).__name__}'): Learner(dls, linear(), mnist_loss)
    with pytest.raises(TypeError, match=r'dls\[1\] must be a loader that gives batches .*, got NoneType'): Learner((tiny_dl, None), linear(), mnist_loss)
    with pytest.raises(ValueError, match='^epoch 1: train_loss was logged twice'): Learner(pair, linear(), mnist_loss, cbs=[Recorder(), Recorder()]).fit(1)
    for kwargs in ({'loss_func': 'mse'}, {'loss_func': mnist_loss, 'opt_func': 3}):
        with pytest.raises(TypeError, match='_func must be a function, got'): Learner(pair, linear(), **kwargs)
    with pytest.raises(TypeError, match='metrics must be a function, got NoneType'): Metrics(None)
    with pytest.raises(ValueError, match='two metrics have the same name: mnist_loss'): Metrics(mnist_loss, mnist_loss)
    with pytest.raises(ValueError, match='the loss has no gradient: call requires_grad_'):
        Learner(pair, linear(), lambda preds, yb: preds.detach().mean()).fit(1)
    for cbs, message in ((Progress(), 'cbs must be a list, such as .* got Progress'), (3, 'cbs must be a list, .* got int'),
                         ([EarlyStop], r'cbs: pass EarlyStop\(\), an object, not the class EarlyStop$'),
                         ([Misspelt()], 'cbs: Misspelt has a method after_epcoh; the moments are before_fit, '), ([3], 'cbs: int has none of them')):
        with pytest.raises(TypeError, match=message): Learner(pair, linear(), mnist_loss, cbs=cbs)
        with pytest.raises(TypeError, match=message): Learner(pair, linear(), mnist_loss).fit(1, cbs=cbs)
    with pytest.raises(ValueError, match="device 'toaster' cannot be used"): ToDevice('toaster')
    learn = Learner(pair, linear(), mnist_loss)
    for epochs in (-1, 1.5, '3'):
        with pytest.raises(ValueError, match='epochs must be a whole number from 0'): learn.fit(epochs)
    for lr in (0, -1., math.nan):
        with pytest.raises(ValueError, match='lr must be a positive number'): learn.fit(1, lr)
    with pytest.raises(ValueError, match='^epoch 1, batch 2: the loss is nan: '):
        Learner((BatchLoader(tiny_dl.x*tensor([[1.], [1.], [math.nan], [1.]]), tiny_dl.y, 2), tiny_dl), linear(), mnist_loss).fit(1)
    with pytest.raises(ValueError, match='the loader is empty'): Learner((tiny_dl, []), linear(), mnist_loss).fit(1)
    with pytest.raises(ValueError, match='patience must be a whole number from 1'): EarlyStop(patience=0)
    for kwargs, message in (({'start': 0}, 'start must be'), ({'stop': 'much'}, 'stop must be'), ({'batches': 0}, 'batches must be')):
        with pytest.raises((ValueError, TypeError), match=message): LRFinder(**kwargs)
    with pytest.raises(ValueError, match='no losses yet'): LRFinder().suggest()
    with pytest.raises(TypeError, match='opt must be an optimiser, such as .* got Linear'): set_lr(linear(), .1)
    with pytest.raises(TypeError, match='got Learner'): set_lr(learn, .1)


def test_finder_stops_above_four_times_the_lowest_and_looks_at_training_only(tiny_dl):
    wanted, seen = iter([2., 1., 4., 3.9, 4.1, 9.]), []
    def loss_func(preds, yb):
        loss = next(wanted) if learn.training else 1000. # in validation
        if learn.training: seen.append(loss)
        return preds.mean()*0 + loss
    learn, finder = Learner((tiny_dl, tiny_dl), linear(), loss_func, cbs=[Metrics(batch_accuracy)]), LRFinder(batches=9)
    learn.fit(9, cbs=[finder])
    assert finder.losses == pytest.approx([2., 1., 4., 3.9, 4.1]) and len(finder.lrs) == 5
    assert finder.suggest() == finder.lrs[1]/3


def test_a_batch_or_a_metric_that_does_not_fit_is_told_before_anything_is_learned(tiny_dl):
    model = linear()
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match='^valid_dl, batch 1'): Learner((tiny_dl, BatchLoader(tiny_dl.x[:, :9], tiny_dl.y)), model, mnist_loss).fit(1, .1)
    assert model.weight.equal(before)
    def no_metric(preds, yb): raise ValueError('no')
    counted = []
    class Count:
        def after_batch(self, learn): counted.append(1)
    with pytest.raises(ValueError, match='^epoch 1: no$'): Learner((tiny_dl, tiny_dl), model, mnist_loss, cbs=[Metrics(no_metric), Count()]).fit(1, .1)
    assert not counted, 'in the very first batch'


@pytest.mark.parametrize('epochs', [1, 3])
def test_probabilities_of_the_last_epoch_are_noticed(epochs):
    dl = BatchLoader(torch.rand(120, 784), torch.arange(120)[:, None]%2, 40)
    learn = Learner((dl, dl), nn.Sequential(linear(), nn.Sigmoid()), mnist_loss, cbs=[Metrics(batch_accuracy)])
    with pytest.warns(UserWarning, match='all predictions look like probabilities') as told: learn.fit(epochs, .1)
    assert len(told) == 1


def test_early_stop_leaves_the_last_weights_unless_the_best_are_wished(tiny_dl):
    class Keep:
        def after_epoch(self, learn): self.last = learn.model.weight.detach().clone()
    def by_epoch(preds, yb): return [.5, .9, .7][learn.epoch - 1]
    keep, learn = Keep(), Learner((tiny_dl, tiny_dl), linear(), mnist_loss, cbs=shown(by_epoch))
    learn.fit(3, cbs=[keep, EarlyStop('by_epoch', 9)])
    assert_close(learn.model.weight.detach(), keep.last, rtol=0, atol=0)


def test_a_rate_is_set_in_every_group(tiny_dl):
    model = nn.Sequential(nn.Linear(784, 2), nn.Linear(2, 1))
    opt = torch.optim.SGD([{'params': layer.parameters(), 'lr': .1*(i + 1)} for i, layer in enumerate(model)])
    set_lr(opt, .5)
    assert [group['lr'] for group in opt.param_groups] == [.5, .5]
