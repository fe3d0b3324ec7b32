"What every training looks at before it begins, what it says about a batch that does not fit, and what it leaves as it was."
import math, random, warnings
from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, RandomSampler

from mnist_sgd.all_digits import cross_entropy, digit_accuracy
from mnist_sgd.basic_optim import BasicOptim, train_epoch, train_model
from mnist_sgd.checks import at, evaluating
from mnist_sgd.learner_from_scratch import Learner, LRFinder, Metrics, Progress, Recorder
from mnist_sgd.linear_model import BatchLoader, batch_accuracy, batch_mean, calc_grad, label_pair, mnist_loss, predict_batches, train_epoch as train_by_hand, validate_epoch

SGD = torch.optim.SGD


def made_up(n=24, classes=2, **kwargs):
    g = torch.Generator().manual_seed(n)
    y = torch.randint(classes, (n,), generator=g)
    return BatchLoader(torch.rand(n, 784, generator=g), y if classes > 2 else y[:, None], 8, **kwargs)


def linear(out=1): return nn.Linear(784, out)
def two_layers(): return nn.Sequential(nn.Linear(784, 4), nn.ReLU(), nn.Linear(4, 1))
def with_state(): return nn.Sequential(nn.Linear(784, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))


def by_train_model(model, dl, valid_dl, opt=None, loss_func=mnist_loss, epochs=1, **kwargs):
    return train_model(model, dl, valid_dl, opt or SGD(model.parameters(), lr=.1), epochs, loss_func, progress=False, **kwargs)


def by_learner(model, dl, valid_dl, opt=None, loss_func=mnist_loss, epochs=1, metric=batch_accuracy):
    learn = Learner((dl, valid_dl), model, loss_func, SGD, cbs=[Recorder(), Metrics(metric)])
    learn.opt = opt
    return learn.fit(epochs, .1)


BOTH = pytest.mark.parametrize('train', [by_train_model, by_learner])


# parameters that never learn

@BOTH
def test_a_layer_that_was_replaced_is_named(train):
    model = two_layers()
    opt = SGD(model.parameters(), lr=.1)
    model[0] = nn.Linear(784, 4)
    with pytest.warns(UserWarning) as told: train(model, made_up(), made_up(), opt)
    said = [str(w.message) for w in told]
    assert len([text for text in said if text.startswith('opt does not move 0.weight, 0.bias: ')]) == 1
    assert len([text for text in said if text.startswith('the loss does not depend on parameter 0 of opt, parameter 1 of opt')]) == 1
    assert all(w.filename == __file__ for w in told)


@BOTH
def test_a_parameter_that_the_model_does_not_use_is_named_once(train):
    model = linear()
    model.extra = nn.Linear(2, 2, bias=False)
    with pytest.warns(UserWarning) as told:
        warnings.simplefilter('default')
        train(model, made_up(), made_up(), epochs=3)
    assert [(str(w.message), w.filename) for w in told] == [('the loss does not depend on extra.weight: does the model use it?', __file__)]


@BOTH
def test_an_optimiser_that_moves_nothing_is_refused(train):
    with pytest.raises(ValueError, match='^opt moves no parameter of the model: make the optimiser for the model that you train$'):
        train(linear(), made_up(), made_up(), SGD(linear().parameters(), lr=1.))
    model = linear()
    opt = SGD(model.parameters(), lr=1.)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match='^opt can move nothing: none of its parameters requires a gradient$'): train(model, made_up(), made_up(), opt)


@BOTH
def test_frozen_layers_stay_and_nobody_complains(train):
    model = two_layers()
    model[0].requires_grad_(False)
    frozen, free = (model[i].weight.detach().clone() for i in (0, 2))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train(model, made_up(), made_up())
        if train is by_train_model: train(model, made_up(), made_up(), BasicOptim([p for p in model.parameters() if p.requires_grad], .1))
    assert model[0].weight.equal(frozen) and not model[2].weight.equal(free)


def test_a_frozen_parameter_is_to_be_left_out():
    with pytest.raises(ValueError, match=r'params\[0\] has no gradient: call requires_grad_\(\) on it, or leave it out if it is not to learn'):
        BasicOptim(linear().requires_grad_(False).parameters(), 1.)


# measuring

def measured(model, dl): return validate_epoch(model, dl), batch_mean(model, dl, mnist_loss), batch_mean(model, dl, lambda preds, yb: preds.mean())


@pytest.mark.parametrize('mode', [True, False])
def test_measuring_depends_on_no_mode_and_changes_none(mode):
    model, dl = with_state(), made_up()
    by_train_model(model, dl, dl)
    assert not model.training # a trained model is ready to predict
    wanted = [F.binary_cross_entropy_with_logits(model(xb), yb.float()).item() for xb, yb in dl]
    model.train(mode)
    model[2].train(not mode) # one part has a mode of its own
    state = {name: t.clone() for name, t in model.state_dict().items()}
    assert measured(model, dl) == measured(model, dl)
    found = [F.binary_cross_entropy_with_logits(preds, yb.float()).item() for preds, yb in predict_batches(model, dl)]
    assert found == wanted and not predict_batches(model, dl)[0][0].requires_grad
    assert [part.training for part in model] == [mode, mode, not mode, mode] and model.training == mode
    for name, t in model.state_dict().items(): assert t.equal(state[name])


def test_modes_come_back_after_an_error():
    model = with_state()
    with pytest.raises(ZeroDivisionError), evaluating(model): 1/0
    assert all(part.training for part in model.modules()) and torch.is_grad_enabled()


def test_an_epoch_trains_in_training_mode():
    model, dl = with_state().eval(), made_up()
    before = model[1].running_mean.clone()
    train_epoch(model, dl, SGD(model.parameters(), lr=.1))
    assert model.training and not model[1].running_mean.equal(before)


def test_a_metric_may_return_any_kind_of_number():
    dl = made_up()
    for number in (.25, np.float32(.25), np.float64(.25), torch.tensor(.25), torch.tensor([.25])):
        assert batch_mean(linear(), dl, lambda preds, yb: number) == .25
        assert by_train_model(linear(), dl, dl, metric=lambda preds, yb: number)['<lambda>'] == [.25]


# the data stay as they are

@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('train', [by_train_model, by_learner, lambda model, dl, valid_dl: train_by_hand(model, dl, model.parameters(), .1)])
def test_a_model_that_scales_in_place_leaves_the_data_as_they_are(train, shuffle):
    class Scales(nn.Linear):
        def forward(self, xb): return super().forward(xb.sub_(.13).div_(.31))
    dl = made_up(shuffle=shuffle)
    x, y = dl.x.clone(), dl.y.clone()
    train(Scales(784, 1), dl, dl)
    assert dl.x.equal(x) and dl.y.equal(y)


# random numbers

def loaders_with_random_numbers():
    pairs = list(zip(*[t for t in (made_up().x, made_up().y)]))
    own = lambda: torch.Generator().manual_seed(1)
    from fastai.data.load import DataLoader as FastLoader
    random.seed(0)
    return {'ours, global': made_up(shuffle=True), 'ours, its own': made_up(shuffle=True, generator=own()), "torch's, global": DataLoader(pairs, 8, shuffle=True),
            "torch's, its own": DataLoader(pairs, 8, shuffle=True, generator=own()), 'a sampler': DataLoader(pairs, 8, sampler=RandomSampler(pairs, generator=own())),
            "fastai's": FastLoader(pairs, 8, shuffle=True)}


@pytest.mark.parametrize('name', loaders_with_random_numbers())
def test_looking_before_a_training_uses_no_random_number(name):
    def rest(): return torch.rand(1).item(), random.random(), np.random.rand()
    seen = []
    for train in (by_train_model, lambda model, dl, valid_dl: train_epoch(model, dl, SGD(model.parameters(), lr=.1))):
        dl, valid_dl = loaders_with_random_numbers()[name], made_up()
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        model = with_state()
        train(model, dl, valid_dl)
        seen.append((model[0].weight.tolist(), rest()))
    assert seen[0] == seen[1]


@BOTH
def test_a_generator_gives_all_its_batches(train):
    batches, seen = list(made_up()), []
    class Counts(nn.Linear):
        def forward(self, xb):
            seen.append(self.training)
            return super().forward(xb)
    train(Counts(784, 1), iter(batches), iter(batches))
    assert seen == [True]*3 + [False]*3


# a batch that does not fit

@pytest.mark.parametrize('dl, message', [
    (made_up(classes=10), r"^dl, batch 1: mnist_loss: targets must have the shape of predictions, \(8, 10\), got int64 \(8,\); for more than two classes pass loss_func=cross_entropy and metric=digit_accuracy$"),
    (BatchLoader(made_up().x.double(), made_up().y, 8), r"^dl, batch 1, xb float64 \(8, 784\) and yb int64 \(8, 1\): mat1 .*; call .float\(\) on the inputs"),
    (BatchLoader((made_up().x*255).byte(), made_up().y, 8), r"^dl, batch 1, xb uint8 .*; call .float\(\) on the inputs, or .float\(\)/255 on bytes"),
    (BatchLoader(made_up().x.view(-1, 28, 28), made_up().y, 8), r"^dl, batch 1, xb float32 \(8, 28, 28\) .*; if the model takes \(n, 784\), call .flatten\(1\) on the inputs$"),
    ([(1, 2, 3)], r"^dl, batch 1: the loader must give pairs of tensors \(xb, yb\), got int, int, int; use BatchLoader"),
    ([tuple(t.numpy() for t in batch) for batch in made_up()], r"^dl, batch 1: the loader must give pairs of tensors \(xb, yb\), got ndarray, ndarray; use BatchLoader"),
    ([made_up().x], r"^dl, batch 1: the loader must give pairs of tensors \(xb, yb\), got Tensor; use BatchLoader"),
    ([], "^dl: the loader is empty")])
def test_batches_to_train_on(dl, message):
    model = linear(10 if 'cross_entropy' in message else 1)
    before = model.weight.detach().clone()
    with pytest.raises((TypeError, ValueError), match=message): by_train_model(model, dl, made_up())
    for_an_epoch = message.replace('dl, batch 1', 'batch 1').replace('dl: ', '')
    with pytest.raises((TypeError, ValueError), match=for_an_epoch): train_epoch(model, dl, SGD(model.parameters(), lr=1.))
    with pytest.raises((TypeError, ValueError), match=for_an_epoch): train_by_hand(model, dl, model.parameters(), 1.)
    assert model.weight.equal(before)


def test_ten_classes_are_told_before_the_first_step_what_they_need():
    dl, model = made_up(40, 10), linear(10)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=r'^valid_dl, batch 1: batch_accuracy: yb must .*; for more than two classes pass loss_func=cross_entropy and metric=digit_accuracy$'):
        by_train_model(model, dl, dl, loss_func=F.cross_entropy)
    assert model.weight.equal(before)
    history = by_train_model(model, dl, dl, loss_func=F.cross_entropy, metric=digit_accuracy, epochs=2)
    assert list(history) == ['train_loss', 'valid_loss', 'digit_accuracy', 'seconds']
    assert history['digit_accuracy'][-1] == torch.stack([digit_accuracy(model(xb), yb) for xb, yb in dl]).mean().item()
    assert history['valid_loss'][-1] == pytest.approx(batch_mean(model, dl, cross_entropy))
    with pytest.raises(ValueError, match='^epoch 1: batch_accuracy: yb must'): by_learner(linear(10), dl, dl, loss_func=F.cross_entropy) # in its first batch


def test_validation_is_measured_on_the_validation_data():
    dl, valid_dl, model = made_up(24), made_up(16), linear()
    history = by_train_model(model, dl, valid_dl)
    assert history['valid_loss'] == [batch_mean(model, valid_dl, mnist_loss)] != [batch_mean(model, dl, mnist_loss)]
    assert history['accuracy'] == [batch_mean(model, valid_dl, batch_accuracy)] and history['train_loss'] != history['valid_loss']


@pytest.mark.parametrize('loss_func, kind, message', [
    (nn.MSELoss, TypeError, r'loss_func must be a function: MSELoss is a class, pass MSELoss\(\)$'),
    (nn.BCEWithLogitsLoss(), ValueError, r"result type Float can't be cast to the desired output type Long; this loss wants floats: make the loader with y.float\(\), or pass loss_func=log_loss$"),
    (nn.CrossEntropyLoss(), ValueError, r"; this loss wants one whole number for each image, yb.long\(\) of the shape \(n,\)$"),
    (lambda preds, yb: preds, TypeError, r'a loss must be a tensor with a single number, got shape \(8, 1\); take its mean\(\)'),
    (lambda preds, yb: .5, TypeError, 'a loss must be a tensor with a single number, got float')])
@BOTH
def test_losses_that_do_not_fit(train, loss_func, kind, message):
    with pytest.raises(kind, match=message): train(linear(), made_up(), made_up(), loss_func=loss_func)


def test_a_last_batch_of_one_image_and_batchnorm():
    with pytest.raises(ValueError, match='^epoch 1, batch 4: Expected more than 1 value per channel .*; BatchNorm needs two images or more'):
        by_train_model(with_state(), made_up(25), made_up(25))
    by_train_model(with_state(), made_up(24), made_up(25)) # to measure one image is no trouble


@pytest.mark.parametrize('kind, name', [(nn.Linear, 'Linear'), (nn.Module, 'Module')])
def test_a_class_is_no_model(kind, name):
    with pytest.raises(TypeError, match=f'^train_model: model must be a model: {name} is a class, make an object of it'):
        train_model(kind, made_up(), made_up(), BasicOptim(linear().parameters(), 1.), 1)
    with pytest.raises(TypeError, match='^train_model: valid_dl must be a loader'): train_model(linear(), made_up(), DataLoader, BasicOptim(linear().parameters(), 1.), 1)


def test_arrays_of_numpy_are_to_become_tensors():
    images = np.zeros((2, 28, 28), np.float32)
    with pytest.raises(TypeError, match=r'^label_pair: ones must be a tensor, got ndarray; call torch.as_tensor\(ones\)$'): label_pair(images, images)


# global states of torch

@BOTH
def test_default_dtype_is_named(train):
    torch.set_default_dtype(torch.float64)
    try: model = linear()
    finally: torch.set_default_dtype(torch.float32)
    with pytest.raises(ValueError, match="got Float and Double; .* set torch's default dtype to float32$"): train(model, made_up(), made_up())


@pytest.mark.parametrize('off', [torch.no_grad, torch.inference_mode])
def test_training_where_no_gradient_is_recorded(off):
    model, dl = linear(), made_up()
    with off():
        with pytest.raises(ValueError, match=r'^epoch 1, batch 1: no gradient is recorded here: train outside of torch.no_grad\(\)'): by_train_model(model, dl, dl)
        with pytest.raises(ValueError, match='^no gradient is recorded here'): calc_grad(dl.x, dl.y, model)
    if off is torch.no_grad:
        with off(): by_learner(model, dl, dl) # it switches them on by itself


# probabilities in place of raw predictions

@pytest.mark.parametrize('classes, last, loss_func, metric', [(10, nn.Softmax(1), F.cross_entropy, digit_accuracy), (2, nn.Sigmoid(), mnist_loss, batch_accuracy)])
@BOTH
def test_probabilities_are_noticed_once(train, classes, last, loss_func, metric):
    dl, out = made_up(128, classes), classes if classes > 2 else 1
    with pytest.warns(UserWarning) as told: train(nn.Sequential(linear(out), last), dl, dl, loss_func=loss_func, metric=metric, epochs=2)
    assert [(str(w.message)[:43], w.filename) for w in told] == [('all predictions look like probabilities, bu', __file__)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train(linear(out), dl, dl, loss_func=loss_func, metric=metric)


# a scheduler

def test_scheduler_takes_a_step_after_each_epoch():
    model = linear()
    opt, rates = SGD(model.parameters(), lr=1.), []
    class Watch(CosineAnnealingLR):
        def step(self, *args):
            rates.append(opt.param_groups[0]['lr'])
            super().step(*args)
    scheduler = Watch(opt, 4)
    rates.clear() # it took one when it was made
    by_train_model(model, made_up(), made_up(), opt, epochs=4, scheduler=scheduler)
    assert rates == pytest.approx([(1 + math.cos(math.pi*epoch/4))/2 for epoch in range(4)]) and opt.param_groups[0]['lr'] == pytest.approx(0)


def test_scheduler_that_wants_the_loss():
    model, seen = linear(), []
    opt = SGD(model.parameters(), lr=1.)
    class Watch(ReduceLROnPlateau):
        def step(self, loss): seen.append(loss)
    history = by_train_model(model, made_up(), made_up(), opt, epochs=2, scheduler=Watch(opt))
    assert seen == history['valid_loss']


@pytest.mark.parametrize('scheduler, got', [(OneCycleLR, 'OneCycleLR'), (.1, 'float')])
def test_no_scheduler(scheduler, got):
    with pytest.raises(TypeError, match=f'scheduler must be a scheduler, such as .*, got {got}$'): by_train_model(linear(), made_up(), made_up(), scheduler=scheduler)


# places

def test_at_names_each_place_once():
    with pytest.raises(ValueError, match='^epoch 2, batch 3: too large$'):
        with at('epoch 2'), at('batch 3', torch.zeros(1)): raise ValueError('too large')
    with pytest.raises(KeyError): # not ours to tell
        with at('epoch 2'): {}['x']
    with pytest.raises(RuntimeError, match='^mine$'): # not about a batch
        with at('epoch 2'): raise RuntimeError('mine')
    with pytest.raises(ValueError, match=r'^batch 1, xb float32 \(1,\): not allowed$') as e:
        with at('batch 1', torch.zeros(1)): raise RuntimeError('not allowed\nand more')
    assert isinstance(e.value.__cause__, RuntimeError)


# signs of life

@pytest.mark.parametrize('moment', ['before_fit', 'before_epoch', 'before_batch', 'after_backward', 'after_batch', 'after_epoch', 'after_fit'])
@pytest.mark.parametrize('first', [True, False])
def test_a_failing_callback_leaves_no_bar_open_and_no_weights_moved(moment, first):
    def fail(learn): raise ZeroDivisionError
    Fails = type('Fails', (), {moment: staticmethod(fail)})
    model, bar, finder = linear(), Progress(), LRFinder(batches=9)
    before = model.weight.detach().clone()
    others = [bar, finder]
    learn = Learner((made_up(), made_up()), model, mnist_loss, cbs=[Fails(), *others] if first else [*others, Fails()])
    with pytest.raises(ZeroDivisionError), redirect_stderr(StringIO()): learn.fit(3)
    assert model.weight.equal(before) # LRFinder put them back
    if not (first and moment == 'before_fit'): assert bar.bar.disable # a closed bar


# devices

class Noted(torch.Tensor):
    "A tensor that notes where it is sent."
    def to(self, *args, **kwargs):
        Noted.sent.append(*args, **kwargs)
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize('run', [
    lambda dl, device: by_train_model(linear(), dl, dl, device=device), lambda dl, device: train_epoch(model := linear(), dl, SGD(model.parameters(), lr=.1), device=device),
    lambda dl, device: train_by_hand(model := linear(), dl, model.parameters(), .1, device=device), lambda dl, device: batch_mean(linear(), dl, mnist_loss, device),
    lambda dl, device: validate_epoch(linear(), dl, device), lambda dl, device: predict_batches(linear(), dl, device)])
@pytest.mark.parametrize('device', ['cpu', torch.device('cpu')])
def test_every_batch_is_sent_to_the_device(run, device):
    Noted.sent = []
    run([tuple(t.as_subclass(Noted) for t in batch) for batch in made_up()], device)
    assert len(Noted.sent) in (6, 2*2 + 4*3) and set(Noted.sent) == {device}


# several groups

def test_every_group_of_parameters_is_looked_at():
    model = two_layers()
    opt = SGD([{'params': [model[0].weight, model[0].bias]}, {'params': [model[2].weight, model[2].bias]}], lr=.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        by_train_model(model, made_up(), made_up(), opt)
    before = model[2].weight.detach().clone()
    model[2].weight.grad = torch.full_like(before, math.nan) # left there by somebody else
    by_train_model(model, made_up(), made_up(), opt)
    assert model[2].weight.isfinite().all() and not model[2].weight.equal(before)


def test_mean_loss_of_an_epoch():
    dl, model = made_up(), linear()
    losses = [mnist_loss(model(xb), yb).item() for xb, yb in dl]
    assert len(set(losses)) == 3
    for train in (lambda: train_epoch(model, dl, SGD(model.parameters(), lr=1e-30)), lambda: train_by_hand(model, dl, model.parameters(), 1e-30)):
        assert train() == pytest.approx(sum(losses)/3)


@pytest.mark.parametrize('train', [lambda model, dl, loss: by_train_model(model, dl, dl, loss_func=loss), lambda model, dl, loss: by_learner(model, dl, dl, loss_func=loss),
                                   lambda model, dl, loss: train_epoch(model, dl, SGD(model.parameters(), lr=.1), loss), lambda model, dl, loss: train_by_hand(model, dl, model.parameters(), .1, loss)])
def test_another_loss_moves_the_weights_as_torch_says(train):
    def loss(preds, yb): return F.mse_loss(preds, yb.float())
    dl, model = made_up(8), linear()
    expected = model.weight.detach() - .1*torch.autograd.grad(loss(model(dl.x), dl.y), model.weight)[0]
    train(model, dl, loss)
    torch.testing.assert_close(model.weight.detach(), expected)


# what a scripter's trial found

def test_another_metric_is_computed_on_the_whole_validation_set():
    def f1(preds, yb):
        says, is_one = preds > 0, yb == 1
        return 2*(says & is_one).sum()/(says.sum() + is_one.sum()).clamp(min=1)
    order = made_up(40).y.flatten().argsort()
    valid_dl, model = BatchLoader(made_up(40).x[order], made_up(40).y[order], 8), linear() # sorted, so most batches hold one digit
    history = by_train_model(model, made_up(), valid_dl, metric=f1)
    assert history['f1'] == [pytest.approx(f1(model(valid_dl.x), valid_dl.y).item())] != [pytest.approx(batch_mean(model, valid_dl, f1))]


@pytest.mark.parametrize('name', ['train_loss', 'valid_loss', 'seconds'])
def test_a_metric_has_a_name_of_its_own(name):
    def metric(preds, yb): return 1.
    metric.__name__ = name
    with pytest.raises(ValueError, match=f'^metric must have a name of its own, {name} is taken$'): by_train_model(linear(), made_up(), made_up(), metric=metric)


def test_schedulers_that_would_do_nothing_or_the_wrong_thing():
    model = linear()
    opt, other = SGD(model.parameters(), lr=1.), SGD(linear().parameters(), lr=1.)
    with pytest.raises(ValueError, match='^scheduler was made for another optimiser$'): by_train_model(model, made_up(), made_up(), opt, scheduler=CosineAnnealingLR(other, 2))
    with pytest.raises(ValueError, match='OneCycleLR must take a step after each batch, but here it would after each epoch'):
        by_train_model(model, made_up(), made_up(), opt, scheduler=OneCycleLR(opt, 1., epochs=2, steps_per_epoch=3))


@BOTH
def test_a_generator_for_several_epochs_is_refused_at_once(train):
    model = linear()
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=r'^(valid_)?dl gives its batches only once, but there are 2 epochs: pass list\((valid_)?dl\), or a BatchLoader$'):
        train(model, made_up(), iter(list(made_up())), epochs=2) if train is by_train_model else Learner((iter(list(made_up())), made_up()), model, mnist_loss).fit(2)
    assert model.weight.equal(before)


def test_a_model_of_other_floats_is_named():
    with pytest.raises(ValueError, match=r"; the model has another dtype: call model.float\(\)"): by_train_model(linear().double(), made_up(), made_up())


def test_targets_that_broadcast_in_a_loss_of_torch_are_refused():
    dl = BatchLoader(made_up().x, made_up().y.flatten().float(), 8)
    with pytest.raises(ValueError, match=r'^dl, batch 1, .*Using a target size .*; give the targets the shape of the predictions, with y.unsqueeze\(1\)$'):
        by_train_model(linear(), dl, dl, loss_func=nn.MSELoss(), metric=lambda preds, yb: 0.)


def test_labels_beyond_the_outputs_and_images_for_a_convolution():
    with pytest.raises(ValueError, match=r'Target \d is out of bounds.; does the model have enough outputs\?$'): by_train_model(linear(2), made_up(40, 10), made_up(40, 10), loss_func=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r'; begin the model with nn.Unflatten\(1, \(1, 28, 28\)\)$'): by_train_model(nn.Conv2d(1, 4, 3), made_up(), made_up())


def test_a_softmax_over_one_output_is_noticed():
    with pytest.warns(UserWarning, match='all predictions look like probabilities'): by_train_model(nn.Sequential(linear(), nn.Softmax(1)), made_up(128), made_up(128))


def test_finder_that_saw_too_few_batches_suggests_nothing():
    finder = LRFinder(batches=9)
    Learner((made_up(), made_up()), linear(), mnist_loss).fit(1, cbs=[finder])
    with pytest.raises(ValueError, match='^LRFinder saw only 3 of its 9 batches: give fit more epochs$'): finder.suggest()
    Learner((made_up(), made_up()), linear(), mnist_loss).fit(3, cbs=[finder])
    assert finder.suggest() > 0
