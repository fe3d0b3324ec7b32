import math
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn, tensor
from torch.testing import assert_close

from mnist_sgd.all_digits import (Anneal, confusion, cross_entropy, digit_accuracy, digit_loaders, load_all, load_model, log_softmax,
                                  log_sum_exp, make_conv, mean_distances, plot_confusion, save_model, scores, softmax)
from mnist_sgd.data import load_digit
from mnist_sgd.learner_from_scratch import Learner, Metrics
from mnist_sgd.linear_model import BatchLoader
from mnist_sgd.storage import load_arrays

rows = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=10, max_size=10), min_size=1, max_size=5).map(tensor)


@pytest.fixture(scope='module')
def valid_10(): return load_all('valid')


def test_all_images_in_order_of_the_digits(valid_10):
    x, y = valid_10
    assert x.shape == (10_000, 784) and y.shape == (10_000,) and y.dtype == torch.int64
    assert y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for digit in (0, 3, 9): assert_close(x[y == digit], load_digit(digit, 'valid').flatten(1), rtol=0, atol=0)
    with pytest.raises(ValueError, match="split must be 'train', 'valid' or 'test' .the last two are the same., got 'testing'"): load_all('testing')


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
    for x, got in ((tensor([1, 2]), r'floats, got int64 \(2,\)'), ([1., 2.], 'a tensor, got list'), (None, 'a tensor, got NoneType')):
        with pytest.raises(TypeError, match=f'^{function.__name__}: x must be {got}'): function(x)
    with pytest.raises(ValueError, match=r'x must have the shape \(\*batch, classes\), got float32 \(\)'): function(tensor(1.))
    with pytest.raises(IndexError): function(torch.zeros(2, 0))
    assert function(torch.zeros(0, 10)).shape[0] == 0


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
    learn = Learner(digit_loaders(batch_size), model, cross_entropy, opt_func, cbs=[Metrics(digit_accuracy), Anneal()])
    return learn.fit(epochs, lr)['digit_accuracy'][-1]


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
    shares = plot_confusion(tensor([[.5, .25], [0., 1.]]))
    assert [t.get_text() for t in shares.texts] == ['0.5', '0.25', '', '1']
    plt.close(ax.figure)
    plt.close(shares.figure)


@pytest.mark.parametrize('preds, targets, error, message', [
    (torch.zeros(2, 3), tensor([0, 3]), ValueError, 'targets must be classes from 0 to 2, got 3; does the model have enough outputs'),
    (torch.zeros(2, 3), tensor([0, -1]), ValueError, 'targets must be classes from 0 to 2, got -1$'),
    (torch.zeros(2, 3), tensor([0]), ValueError, r'targets must have the shape \(n,\), where preds \(n, classes\) is \(2, 3\), got int64 \(1,\)'),
    (torch.zeros(2, 3), tensor([[0], [1]]), ValueError, r'targets must have .*got int64 \(2, 1\); call targets.squeeze\(1\)'),
    (torch.zeros(2), tensor([0, 1]), ValueError, r'preds must have the shape \(n, classes\), got float32 \(2,\)'),
    (torch.zeros(0, 3), tensor([], dtype=torch.int64), ValueError, r'preds is empty, \(0, 3\)'),
    (torch.zeros(1, 0), tensor([0]), ValueError, r'preds is empty, \(1, 0\)'),
    (tensor([[0., math.nan], [1., 0.]]), tensor([0, 0]), ValueError, 'preds must be numbers, got NaN.*try a learning rate'),
    (torch.zeros(2, 3), tensor([0., 1.]), TypeError, r'targets must be int64, the index of each class, got float32 \(2,\); call targets.long'),
    (torch.zeros(2, 3).long(), tensor([0, 1]), TypeError, 'preds must be floats, got int64'),
    ([[0.]], tensor([0]), TypeError, 'preds must be a tensor, got list'),
    (torch.zeros(1, 3), [0], TypeError, 'targets must be a tensor, got list')])
def test_refuses_what_are_no_classes(preds, targets, error, message):
    for function in (cross_entropy, digit_accuracy, confusion):
        with pytest.raises(error, match=f'^{function.__name__}: {message}'): function(preds, targets)


def test_refuses():
    with pytest.raises(ValueError, match=r'x must have the shape \(n, pixels\), got float32 \(2, 28, 28\)'):
        mean_distances(torch.zeros(2, 28, 28), torch.zeros(10, 784))
    for means in (torch.zeros(0, 784), torch.zeros(784), torch.zeros(10, 783)):
        with pytest.raises(ValueError, match='^mean_distances: means '): mean_distances(torch.zeros(2, 784), means)
    for x, means in ((torch.zeros(2, 784).byte(), torch.zeros(10, 784)), ([[1.]], torch.zeros(10, 1))):
        with pytest.raises(TypeError, match='^mean_distances: x must be'): mean_distances(x, means)
    with pytest.raises(RuntimeError, match='dtype|type'): mean_distances(torch.zeros(2, 784), torch.zeros(10, 784).double())
    for shape in ((2, 3), (0, 0), (4,)):
        with pytest.raises(ValueError, match='^plot_confusion: matrix '): plot_confusion(torch.zeros(shape).long())
    with pytest.raises(TypeError, match='^plot_confusion: matrix must be a tensor, got list'): plot_confusion([[1]])
    with pytest.raises(ValueError, match='batch_size must be a whole number from 1'): digit_loaders(0)


def test_scores_of_any_stack_of_images(valid_10):
    x = valid_10[0][::4]
    conv = make_conv()
    expected = torch.cat([conv.eval()(part) for part in x.split(1000)]).detach()
    conv.train()
    conv[3].eval() # a part that is frozen stays so
    for images in (x, x.view(-1, 28, 28), (x*255).round().byte(), (x*255).round().long().view(-1, 28, 28)):
        assert_close(scores(conv, images), expected)
    assert conv.training and not conv[3].training and not scores(conv, x[:2]).requires_grad
    assert_close(scores(conv, x[:9] > .5), scores(conv, (x[:9] > .5).float()))
    with pytest.raises(ValueError, match='^scores: images is empty'): scores(conv, x[:0])
    with pytest.raises(TypeError, match='^scores: images must be a tensor, got ndarray'): scores(conv, x.numpy())
    with pytest.raises(TypeError, match='^scores: model must be an nn.Module'): scores(x, conv)


class Odd(nn.Module):
    "A tensor of each dtype, one without axes, one that is not contiguous."
    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
            self.register_buffer(f'of_{str(dtype)[6:]}', (torch.rand(3, 2, generator=generator)*9).to(dtype))
        self.register_buffer('alone', tensor(seed))
        self.weight = nn.Parameter(torch.rand(4, 3, generator=generator).T)


@pytest.mark.parametrize('make', [make_conv, lambda: Odd(1)])
def test_a_saved_model_comes_back_exactly(make, tmp_path):
    path, model = tmp_path/'model.safetensors', make()
    save_model(model, path, epochs=4, lr=.1, words='é "quoted"', sizes=[1, 2])
    again, made_by = load_model(path, Odd(2) if isinstance(model, Odd) else make())
    assert made_by == dict(epochs=4, lr=.1, words='é "quoted"', sizes=[1, 2]) and not again.training
    for (name, a), (other, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and a.dtype == b.dtype and torch.equal(a, b)
    before = path.read_bytes()
    save_model(again, str(path), epochs=4, lr=.1, words='é "quoted"', sizes=[1, 2])
    assert path.read_bytes() == before


def test_what_made_a_model_is_one_entry_of_the_file_and_files_of_others_are_read(tmp_path):
    model, path = make_conv(), tmp_path/'model'
    save_model(model, path, seed=42, net='make_conv')
    with safetensors.safe_open(path, 'pt') as file: assert file.metadata() == {'mnist_sgd': '{"seed": 42, "net": "make_conv"}'}
    safetensors.torch.save_file(model.state_dict(), path)
    again, made_by = load_model(path, make_conv())
    assert made_by == {} and torch.equal(again[1].weight, model[1].weight)


def test_weights_that_two_layers_share_are_kept(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model
    model = tied()
    save_model(model, tmp_path/'model')
    assert torch.equal(load_model(tmp_path/'model', tied())[0][1].weight, model[0].weight)


def test_a_save_that_is_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    path, first, second = tmp_path/'model', make_conv(), make_conv()
    save_model(first, path, which=1)
    before = path.read_bytes()
    def killed(*args): raise KeyboardInterrupt
    monkeypatch.setattr(Path, 'replace', killed)
    with pytest.raises(KeyboardInterrupt): save_model(second, path, which=2)
    with pytest.raises(TypeError, match='not JSON serializable'): save_model(second, path, which={1, 2})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match='cannot write'): save_model(second, tmp_path/'missing'/'model')


def test_refuses_files_of_another_kind(tmp_path):
    path, conv = tmp_path/'model', make_conv()
    save_model(conv, path)
    good, before = path.read_bytes(), [t.clone() for t in conv.state_dict().values()]
    torch.save(conv.state_dict(), tmp_path/'zip')
    header = b'{"a": %s}'
    bad = [b'', b'1234', good[:1000], good[:-4], pickle.dumps({'a': 1}), (tmp_path/'zip').read_bytes(), b'\xff'*100]
    bad += [len(header % entry).to_bytes(8, 'little') + header % entry + b'12345678' for entry in
            (b'1', b'{}', b'{"dtype": "F32", "shape": [2], "data_offsets": [0, 99]}', b'{"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}',
             b'{"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}', b'{"dtype": "F32", "shape": 2, "data_offsets": [0]}', b'[]')]
    bad += [(2).to_bytes(8, 'little') + b'[]', (4).to_bytes(8, 'little') + b'null']
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(ValueError, match='cannot be read as safetensors|weights of another model') as told: load_model(path, conv)
        assert '\n' not in str(told.value)
    path.write_bytes(good)
    for other in (nn.Linear(784, 10), make_conv().double(), nn.Sequential(*make_conv()[:-1])):
        with pytest.raises(ValueError, match='holds the weights of another model'): load_model(path, other)
    with pytest.raises(ValueError, match='cannot be read'): load_model(tmp_path/'missing', conv)
    with pytest.raises(TypeError, match='^load_model: model must be an nn.Module'): load_model(path, make_conv)
    assert all(map(torch.equal, before, conv.state_dict().values())) # a file that is refused changes nothing


def test_scores_follow_the_model(valid_10):
    for model in (make_conv().double(), nn.Linear(784, 10).half()): # to its kind of floats; a device is gone to by the same call
        assert scores(model, valid_10[0][:3]).dtype == next(model.parameters()).dtype
    assert scores(nn.Linear(784, 10, device='meta'), valid_10[0][:3]).is_meta
    assert scores(nn.Identity(), valid_10[0][:3].byte()).dtype == torch.float32


def test_load_model_names_the_part_that_differs(tmp_path):
    save_model(nn.Linear(784, 10), tmp_path/'line', lr=.1)
    with pytest.raises(ValueError, match=r"line holds the weights of another model: weight is float32 \(10, 784\) there and float32 \(1, 784\) here; .*says: \{'lr': 0.1\}"):
        load_model(tmp_path/'line', nn.Linear(784, 1))
    with pytest.raises(ValueError, match=r'0.weight is missing there and float32 \(10, 784\) here'): load_model(tmp_path/'line', nn.Sequential(nn.Linear(784, 10)))


def test_load_all_in_mnists_own_order(valid_10):
    x, y = load_all('test', by_digit=False)
    images, labels = load_arrays('test')
    assert y.tolist() == labels.tolist() and y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert_close(x, torch.from_numpy(images).flatten(1)/255.)
    assert x[y == 3].sum().item() == pytest.approx(valid_10[0][valid_10[1] == 3].sum().item(), rel=1e-6)
    assert load_all('train', by_digit=False)[1][:50_000].unique().tolist() == [*range(10)] != load_all('train')[1][:50_000].unique().tolist()
