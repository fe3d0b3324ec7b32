"What a door lets in, what it refuses and how it says so, and what it remembers."
import inspect, math

import numpy, pytest, torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from mnist_sgd.basic_optim import BasicOptim
from mnist_sgd.checks import (at, Binary, Classes, Count, Device, Float, Learns, Loader, Model, Module, NoNaN, Optimizer, Params, Pixels, Rate,
                              Shaped, Whole, batches, checked, ensure, finite, learning, optim_params, usable)


@checked
def loss(predictions:Float[Tensor, '*n'], targets:Binary[Tensor, '*n'], lr:Rate=1.)->Float[Tensor, '']:
    "A loss."
    return (predictions - targets.float()).abs().mean()


@checked
def fit(model:Model, dl:Loader, valid_dl:Loader, opt:Optimizer, epochs:Count): return epochs


@checked
def bare_loss(predictions:Float[Tensor, '*n'], targets:Binary[Tensor, '*n'])->Float[Tensor, '']: # tensors only: it has a short way
    return (predictions - targets.float()).abs().mean()


PREDS, TARGETS = torch.tensor([[.5], [-2.]]), torch.tensor([[1], [0]])


@pytest.mark.parametrize('preds', [PREDS, PREDS.double(), PREDS.half(), PREDS.clone().requires_grad_()])
@pytest.mark.parametrize('targets', [TARGETS, TARGETS.float(), TARGETS.bool(), TARGETS.byte()])
def test_what_fits_is_let_in_twice(preds, targets):
    for _ in range(2):
        assert loss(preds, targets).item() == loss(targets=targets, predictions=preds, lr=2).item()
        assert loss(preds.flatten(), targets.flatten()).ndim == 0


@pytest.mark.parametrize('args, kind, message', [
    ((PREDS, TARGETS[:, 0]), ValueError, r'loss: targets must have the shape of predictions, (2, 1), got int64 (2,); call targets.unsqueeze(1)'),
    ((PREDS[:, 0], TARGETS), ValueError, r'loss: targets must have the shape of predictions, (2,), got int64 (2, 1); call targets.squeeze(1)'),
    ((PREDS, TARGETS.T), ValueError, r'loss: targets must have the shape of predictions, (2, 1), got int64 (1, 2); call targets.t()'),
    ((PREDS, TARGETS[:1]), ValueError, r'loss: targets must have the shape of predictions, (2, 1), got int64 (1, 1)'),
    ((PREDS, TARGETS*4 + 3), ValueError, 'loss: targets must be 0 or 1, got 7; make them with (labels == 3).long()'),
    ((PREDS, TARGETS - 1), ValueError, 'loss: targets must be 0 or 1, got -1; make them with (labels == 3).long()'),
    ((PREDS, TARGETS*math.nan), ValueError, 'loss: targets must be 0 or 1, got nan; make them with (labels == 3).long()'),
    ((PREDS, TARGETS/0), ValueError, 'loss: targets must be 0 or 1, got inf; make them with (labels == 3).long()'),
    ((PREDS[:0], TARGETS[:0]), ValueError, 'loss: predictions is empty, (0, 1): there is nothing to compute with'),
    ((PREDS.tolist(), TARGETS), TypeError, 'loss: predictions must be a tensor, got list'),
    ((None, TARGETS), TypeError, 'loss: predictions must be a tensor, got NoneType'),
    ((PREDS.numpy(), TARGETS), TypeError, 'loss: predictions must be a tensor, got ndarray; call torch.as_tensor(predictions)'),
    ((TARGETS, PREDS), TypeError, 'loss: predictions must be floats, got int64 (2, 1); write 1. for 1, or call .float(); '
                                  'are the arguments in the wrong order? It is (predictions, targets, lr)'),
    ((TARGETS.float(), PREDS), ValueError, 'loss: targets must be 0 or 1, got 0.5; make them with (labels == 3).long(); '
                                           'are the arguments in the wrong order? It is (predictions, targets, lr)'),
    ((PREDS, TARGETS, 0), ValueError, 'loss: lr must be a positive number, got 0; try 1 for the digits'),
    ((PREDS, TARGETS, '1'), TypeError, 'loss: lr must be a number, got str')])
def test_what_does_not_fit_meets_one_sentence(args, kind, message):
    for _ in range(2):
        with pytest.raises(kind) as e: loss(*args)
        assert str(e.value) == message


def test_python_itself_says_what_is_wrong_with_a_call():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'targets'"): loss(PREDS)
    with pytest.raises(TypeError, match='takes from 2 to 3 positional arguments but 4 were given'): loss(PREDS, TARGETS, 1, 2)
    with pytest.raises(TypeError, match="got multiple values for argument 'targets'"): loss(PREDS, TARGETS, targets=TARGETS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"): loss(PREDS, TARGETS, rate=1)


@pytest.mark.parametrize('func', [loss, bare_loss])
@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.float32])
def test_a_remembered_shape_does_not_let_values_in(func, dtype):
    targets = TARGETS.to(dtype, copy=True)
    for _ in range(2): func(PREDS, targets)
    targets[0] = 16 # its square is 0 in a byte
    with pytest.raises(ValueError, match='targets must be 0 or 1, got 16'): func(PREDS, targets)


def test_the_short_way_lets_in_and_refuses_what_the_long_way_does():
    for _ in range(2):
        assert bare_loss(PREDS, TARGETS) == bare_loss(targets=TARGETS, predictions=PREDS) == loss(PREDS, TARGETS)
        assert bare_loss(PREDS.to('meta'), TARGETS.to('meta')).is_meta
        for args in ((PREDS, TARGETS[:, 0]), (PREDS.tolist(), TARGETS), (PREDS.numpy(), TARGETS), (TARGETS, PREDS),
                     (PREDS, TARGETS*math.nan), (PREDS, TARGETS/0), (PREDS[:0], TARGETS[:0])):
            with pytest.raises((TypeError, ValueError)) as long: loss(*args)
            with pytest.raises(long.type) as short: bare_loss(*args)
            assert str(short.value) == str(long.value).replace('loss: ', 'bare_loss: ').replace(', lr)', ')')
    with pytest.raises(TypeError, match=r"^bare_loss\(\) missing 1 required positional argument: 'targets'"): bare_loss(PREDS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"): bare_loss(PREDS, TARGETS, rate=1)


def test_an_argument_may_have_any_name():
    @checked
    def add(first:Shaped[Tensor, 'k'], func:Shaped[Tensor, 'k'], passed:Binary[Tensor, 'k'], equal:Shaped[Tensor, 'k'], short:Shaped[Tensor, 'k'], door:Shaped[Tensor, 'k']):
        return first + func + passed + equal + short + door
    one = torch.ones(2).long()
    for _ in range(2): assert add(*[one]*6).tolist() == [6, 6]
    assert checked(lambda: 3)() == 3


def test_numbers_are_compared_by_their_type_too():
    fit(nn.Identity(), [], [], torch.optim.SGD([torch.zeros(1)]), 1)
    for epochs in (True, 1., '1', 0, numpy.float64(1)):
        with pytest.raises(ValueError, match='epochs must be a whole number from 1, got'):
            fit(nn.Identity(), [], [], torch.optim.SGD([torch.zeros(1)]), epochs)
    assert fit(nn.Identity(), [], [], torch.optim.SGD([torch.zeros(1)]), numpy.int64(2)) == 2


def test_more_combinations_than_are_kept():
    for _ in range(2):
        for n in range(1, 400): loss(torch.zeros(n), torch.ones(n))
    with pytest.raises(ValueError, match='must have the shape of predictions'): loss(torch.zeros(5), torch.ones(6))


def test_arguments_in_the_wrong_order():
    model, opt = nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)])
    with pytest.raises(TypeError, match=r'model must be a model, .*got list; are the arguments in the wrong order\? It is \(model, dl, valid_dl, opt, epochs\)'):
        fit([], [], model, opt, 1)
    with pytest.raises(TypeError, match='valid_dl must be a loader .*got Linear'): fit(opt.step, [], model, opt, 1)


def test_exported_signature_and_docstring_stay():
    assert list(inspect.signature(loss).parameters) == ['predictions', 'targets', 'lr'] and loss.__doc__ == 'A loss.' and loss.__name__ == 'loss'


def test_the_names_of_sizes_are_those_of_the_call():
    @checked
    def linear(xb:Float[Tensor, '*batch k'], weights:Float[Tensor, 'k out'], bias:Float[Tensor, 'out']): return xb@weights + bias
    assert linear(torch.zeros(0, 3), torch.zeros(3, 2), torch.zeros(2)).shape == (0, 2) # only n and m must hold something
    with pytest.raises(ValueError) as e: linear(torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2))
    assert str(e.value) == 'linear: weights must have the shape (k, out), where xb (*batch, k) is (4, 3), got float32 (2, 3); call weights.t()'


def test_a_result_that_is_no_number_is_refused():
    @checked
    def mean(x:Pixels[Tensor, 'k'])->NoNaN[Tensor, '']: return x.mean()
    assert mean(torch.ones(2)) == 1
    for x in (torch.zeros(0), torch.tensor([math.nan])):
        with pytest.raises(ValueError, match='mean: the result must be numbers, got NaN'): mean(x)
    with pytest.raises(TypeError, match=r'x must be floats, got uint8 \(2,\); call .float\(\)/255 on the images'): mean(torch.ones(2).byte())


def test_what_learns():
    w = torch.zeros(2, requires_grad=True)
    assert ensure(Learns[Tensor, '...'], w, 'w') is w
    with pytest.raises(ValueError, match=r'w has no gradient: call requires_grad_\(\)'): ensure(Learns[Tensor, '...'], torch.zeros(2), 'w')
    with pytest.raises(ValueError, match='w was computed from another tensor'): ensure(Learns[Tensor, '...'], w*2, 'w')
    assert ensure(Params, (p for p in [w]), 'params')[0] is w
    for bad, kind, message in ((w, TypeError, 'iterable of tensors.*got Tensor'), (nn.Linear(1, 1).parameters, TypeError, 'got method'),
                               ([], ValueError, 'params is empty'), ([w, 1.], TypeError, r'params\[1\] must be a tensor, got float'),
                               ([torch.zeros(2)], ValueError, r'params\[0\] has no gradient'), ([w*2], ValueError, r'params\[0\] was computed')):
        with pytest.raises(kind, match=message): ensure(Params, bad, 'params')


@pytest.mark.parametrize('kind, good, bad', [
    (Rate, [1, .5, 1e-30, numpy.float32(.1), True + 1], [0, -1, 0., math.nan, math.inf, -math.inf, 1e39, 10**400]),
    (Count, [1, 10**9, numpy.int64(3)], [0, -1, 1.5, '3', None, True]), (Whole, [0, 7], [-1, .5, None, False]),
    (Device, [None, 'cpu', torch.device('cpu'), 'meta'], ['toaster', 'cuda:99', 3.5])])
def test_kinds_of_numbers(kind, good, bad):
    for x in good:
        looked = ensure(kind, x, 'x')
        assert looked == x and (kind is Device or type(looked) in (int, float)) # Python's own, which JSON and files hold
    for x in bad:
        with pytest.raises(ValueError, match='^x .*got|^x .* cannot be used here'): ensure(kind, x, 'x')


@pytest.mark.parametrize('kind, bad', [(Rate, '1'), (Rate, None), (Rate, True), (Model, 3), (Module, len), (Loader, 3), (Loader, nn.Sequential()), (Optimizer, 1.)])
def test_other_kinds(kind, bad):
    with pytest.raises(TypeError, match='^x must be .*got'): ensure(kind, bad, 'x')


@given(st.lists(st.integers(-3, 3) | st.booleans(), min_size=1, max_size=9))
def test_binary_is_zero_and_one(values):
    for dtype in (torch.int64, torch.int8, torch.float32, torch.float64):
        x = torch.tensor(values).to(dtype)
        if set(values) <= {0, 1}: assert ensure(Binary[Tensor, '*n'], x, 'x') is x
        else:
            with pytest.raises(ValueError, match='x must be 0 or 1'): ensure(Binary[Tensor, '*n'], x, 'x')


@pytest.mark.parametrize('loss', [math.nan, math.inf])
def test_loss_that_runs_away(loss):
    with pytest.raises(ValueError, match=f'^epoch 2, batch 3: the loss is {loss}: try a learning rate ten times smaller'):
        with at('epoch 2'), at('batch 3'): finite(torch.tensor(loss))
    assert finite(torch.tensor(loss, device='meta')) is not None # to look on another device would be to wait


@pytest.mark.parametrize('loss, got', [(1., 'float'), (torch.ones(2), r'shape \(2,\)')])
def test_loss_is_one_number(loss, got):
    with pytest.raises(TypeError, match=f'a loss must be a tensor with a single number, got {got}; take its mean'): usable(loss)


def test_loss_without_a_gradient():
    with pytest.raises(ValueError, match='the loss has no gradient: call requires_grad_'): usable(torch.tensor(1.))


def test_learning():
    used, unused = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match='no parameter has a gradient'): learning([used, unused])
    used.sum().backward()
    assert learning([used, unused])[0] is used and len(learning([used, unused])) == 1
    with pytest.raises(ValueError, match='not used by the model'): learning([used, unused], every=True)


def test_optim_params_of_every_group():
    w, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    two_groups = torch.optim.SGD([{'params': [w]}, {'params': [b]}], lr=1.)
    for opt in (BasicOptim([w, b], lr=1.), two_groups): assert [p is q for p, q in zip(optim_params(opt), (w, b), strict=True)] == [True, True]


def test_batches_have_a_place_and_a_device():
    two = [(torch.ones(1), torch.ones(1)), (torch.zeros(1), torch.zeros(1))]
    assert [(where, xb.item()) for where, xb, yb in batches(two)] == [('batch 1', 1.), ('batch 2', 0.)]
    assert [t.device.type for t in next(iter(batches(two, 'meta')))[1:]] == ['meta', 'meta']
    with pytest.raises(ValueError, match='the loader is empty'): list(batches([]))


def test_a_positional_argument_is_never_taken_for_a_keyword():
    @checked
    def keep(model:Module, **made_by): return made_by
    with pytest.raises(TypeError, match='takes 1 positional argument but 2 were given'): keep(nn.Linear(1, 1), {'lr': .1})
    assert keep(nn.Linear(1, 1), lr=.1) == {'lr': .1}


@pytest.mark.parametrize('targets, message', [
    (torch.tensor([0, 3]), r'targets must be classes from 0 to 2, got 3; does the model have enough outputs\?$'), (torch.tensor([0, -1]), 'from 0 to 2, got -1$'),
    (torch.tensor([0., 1.]), r'targets must be int64, .* call targets.long\(\)'), (torch.tensor([[0], [1]]), r'call targets.squeeze\(1\)')])
def test_classes_are_columns_of_the_scores_beside_them(targets, message):
    @checked
    def count(preds:NoNaN[torch.Tensor, 'n classes'], targets:Classes[torch.Tensor, 'n']): return len(targets)
    for _ in range(2): assert count(torch.zeros(2, 3), torch.tensor([0, 2])) == 2 # the second time by the short way
    with pytest.raises((TypeError, ValueError), match=message): count(torch.zeros(2, 3), targets)


def test_a_repair_is_enough_of_advice():
    "Where a call would mend it, the order of the arguments is not doubted, even if another order would fit."
    @checked
    def both(a:Float[Tensor, 'n'], b:Float[Tensor, 'n 1']): return a, b
    with pytest.raises(ValueError) as e: both(torch.zeros(2, 1), torch.zeros(2))
    assert 'wrong order' in str(e.value)
    with pytest.raises(ValueError) as e: both(torch.zeros(2), torch.zeros(2))
    assert str(e.value).endswith('; call b.unsqueeze(1)')


def test_a_kind_shows_its_name():
    assert [repr(kind) for kind in (Rate, Count, Model)] == ['Rate', 'Count', 'Model']


def test_a_door_remembers_at_most_256_combinations():
    from mnist_sgd.checks import _remember
    seen = set()
    for known in range(300): _remember(seen, known)
    assert seen == set(range(256, 300))


def test_a_result_that_must_be_a_number_is_looked_at_each_time():
    "Also where all arguments are tensors that have fitted before."
    @checked
    def half(x:Float[Tensor, 'n'])->NoNaN[Tensor, 'n']: return x/2
    assert half(torch.ones(2)).tolist() == [.5, .5]
    with pytest.raises(ValueError, match='half: the result must be numbers, got NaN'): half(torch.ones(2)*math.nan)


def test_scores_of_two_columns_are_no_probabilities_because_they_lie_between_0_and_1(recwarn):
    from mnist_sgd.checks import expect_scores
    expect_scores([torch.full((200, 2), .3)])
    assert not recwarn
    with pytest.warns(UserWarning, match='look like probabilities'): expect_scores([torch.full((200, 2), .5)])
