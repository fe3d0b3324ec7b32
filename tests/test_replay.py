"Where the notes' random numbers came from, and every number that they print."
import json, re
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ledger
from mnist_sgd.basic_optim import BasicOptim, train_model
from mnist_sgd.linear_model import batch_accuracy, init_params, label_pair, linear1, train_epoch, validate_epoch
from mnist_sgd.manual_sgd import apply_step, f, mse
from mnist_sgd.replay import KEPT, STATES, draws_used, find_weights, replay_state, skip_draws
from mnist_sgd.run import NOTES, STAGES

# what the notes print, line by line: each number here must be in the table
PRINTED = {
    17: '[6131, 28, 28]',
    37: '[1010, 28,28] [1028,28,28]',
    40: '0.014',
    44: '0.1050, 0.1526, 0.1186,  ..., 0.1122, 0.1170, 0.1086',
    45: '[1010]',
    54: '9.',
    114: '[12396, 784] [12396, 1]',
    118: '[784] [1]',
    138: '7.5145, 12.6291,  8.7788,  ..., -9.0516,  1.0111, -5.5140',
    143: '0.5041003823280334',
    149: '0.5041003823280334',
    160: '0.433',
    161: '0.233',
    180: '(256, 784), (256, 1)',
    187: '(4, 784)',
    190: '[[-11.1002], [  5.9263], [  9.9627], [ -8.1484]]',
    192: '0.5006',
    194: '[784, 1] -0.0001 -0.0008',
    204: '-0.0002 -0.0015',
    208: '-0.0003 -0.0023',
    231: '0.5000',
    238: '0.5219',
    244: '0.6833',
    250: '0.8314 0.9017 0.9227 0.9349 0.9438 0.9501 0.9535 0.9564 0.9594 0.9618 '
         '0.9613 0.9638 0.9643 0.9652 0.9662 0.9677 0.9687 0.9691 0.9691 0.9696',
    260: '[1, 784] [1]',
    293: '0.4932 0.852 0.8335 0.9116 0.9326 0.9473 0.9555 0.9624 0.9648 0.9668 '
         '0.9692 0.9712 0.9731 0.9746 0.9761 0.9765 0.9775 0.978 0.9785 0.9785'}
REFERENCES = json.loads(Path(__file__).with_name('references.json').read_text(encoding='utf-8'))


def test_every_number_of_the_notes_is_in_the_table(numbers):
    table = {}
    for n in numbers: table.setdefault(n['line'], []).append(n['printed'])
    assert table == {line: [float(n) for n in re.findall(r'-?\d+\.?\d*', text)] for line, text in PRINTED.items()}


def test_each_number_is_reproduced_or_a_known_misprint(numbers, record_property):
    assert {n['verdict'] for n in numbers} == {'reproduced', 'misprint'}
    for n in numbers:
        assert n['why'] and (n['tolerance'] == 0) == (n['why'] == 'counted')
        close = abs(n['printed'] - n['computed']) <= n['tolerance'] + 1e-6
        assert close == (n['verdict'] == 'reproduced')
    misprints = [(n['line'], n['printed'], round(n['computed'], 4)) for n in numbers if n['verdict'] == 'misprint']
    assert misprints == [(17, 6131, 6265), (40, .014, .1114), (143, .5041003823280334, .4943),
                         (149, .5041003823280334, .4943), (244, .6833, .6884)]
    record_property('count', f'{len(numbers)} numbers in the notes: {len(numbers) - len(misprints)} reproduced, {len(misprints)} misprints')


def test_tolerances_are_no_wider_than_the_last_digit_or_the_order_of_the_files(numbers):
    assert {n['line'] for n in numbers if n['tolerance'] == .0004} == {238, 244, 250, 293}
    assert all(n['tolerance'] <= .0005 for n in numbers)


def test_the_saved_ledger_holds_what_is_computed(numbers):
    saved = ledger.one_by_one(ledger.read())
    for old, new in zip(saved, numbers, strict=True):
        assert old | {'computed': pytest.approx(old['computed'], abs=5e-4)} == new # the verdict, too


def test_the_ledger_is_written_as_it_is_saved(tmp_path, monkeypatch):
    rows, saved = ledger.read(), ledger.LEDGER.read_bytes()
    monkeypatch.setattr(ledger, 'LEDGER', tmp_path/'ledger.json')
    ledger.write(rows)
    assert (tmp_path/'ledger.json').read_bytes() == saved


def test_the_command_prints_the_numbers_of_the_ledger():
    printed = {row['line']: row['printed'] for row in ledger.read()}
    assert NOTES == {'linear_model': printed[238] + printed[244] + printed[250], 'fastai_sgd': printed[293]}


def test_states_are_those_that_the_command_trains_from():
    assert STATES == {'first_predictions': 100, 'linear_model': 4269, 'basic_optim': 5139, 'fastai_sgd': 6006,
                      'fastai_learner': 6871, 'neural_net': 31312}
    for stage, (skip, *_) in STAGES.items(): assert STATES.get(stage, skip) == skip
    assert KEPT == {'linear_model': 1620}


@pytest.mark.parametrize('n', [0, 100, 4269])
def test_skip_draws(n):
    torch.manual_seed(42)
    for _ in range(n): torch.empty(1, dtype=torch.int32).random_()
    expected = torch.randn(784)
    skip_draws(n)
    torch.testing.assert_close(torch.randn(784), expected)
    with pytest.raises(ValueError, match='^skip_draws: n must be a whole number from 0, got -1$'): skip_draws(-1)


@pytest.mark.parametrize('kept, n', [(0, 4), (5, 9), (1620, 4269)])
def test_skip_draws_can_keep_the_other_half_of_a_pair(kept, n):
    skip_draws(kept)
    expected_half = [torch.randn(1), torch.randn(1)][1]
    skip_draws(n)
    expected_weights = torch.randn(784)
    skip_draws(n, kept=kept)
    torch.testing.assert_close(torch.randn(784), expected_weights, rtol=0, atol=0)
    torch.testing.assert_close(torch.randn(1), expected_half, rtol=0, atol=0)


@pytest.mark.parametrize('kept', [-1, 97, 100])
def test_skip_draws_has_no_room_for_the_pair(kept):
    with pytest.raises(ValueError, match=f'kept must be from 0 to n - 4, got {kept} with n=100'):
        skip_draws(100, kept=kept)


def test_replay_state_goes_where_skip_draws_goes():
    replay_state('basic_optim')
    replayed = nn.Linear(784, 1).state_dict()
    skip_draws(5139)
    torch.testing.assert_close(replayed, nn.Linear(784, 1).state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="^step must be one of first_predictions, .*, neural_net, got 'net'$"):
        replay_state('net')
    for step in (42, []):
        with pytest.raises(ValueError, match='step must be one of'): replay_state(step)


def test_draws_used_leaves_the_generator_as_it_was():
    torch.manual_seed(1)
    torch.randn(1) # keeps the other half of its pair
    state = torch.get_rng_state()
    assert draws_used(lambda: torch.rand(5)) == 5
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(0, 5000))
def test_draws_used_counts_uniform_numbers(n):
    assert draws_used(lambda: torch.rand(n)) == n


def test_draws_used_says_what_it_cannot_count():
    with pytest.raises(ValueError, match='^func drew more than 100 numbers, or set its own seed$'):
        draws_used(lambda: torch.rand(101), limit=100)
    for seed in (3, 42):
        with pytest.raises(ValueError, match='own seed'): draws_used(lambda: torch.manual_seed(seed))
    for limit in (-1, 1.5, None):
        with pytest.raises(ValueError, match='limit must be a whole number from 0'): draws_used(lambda: None, limit=limit)


@settings(max_examples=20)
@given(st.integers(0, 2**40), st.integers(0, 20_000), st.floats(-3, 3))
def test_weights_are_found_wherever_they_were_drawn(train, seed, place, bias):
    x = label_pair(*train)[0][::4000]
    skip_draws(place, seed)
    printed = (x@torch.randn(784, 1) + bias).flatten().tolist()
    (found, found_bias), *others = find_weights(x, [round(p, 4) for p in printed], seed, limit=20_001)
    assert found == place and not others
    assert found_bias == pytest.approx(bias, abs=2e-4)


def test_weights_of_the_notes_are_found_among_a_million_places(train):
    x, _ = label_pair(*train)
    first_predictions = [7.5145, 12.6291, 8.7788, -9.0516, 1.0111, -5.5140]
    assert find_weights(x[[0, 1, 2, -3, -2, -1]], first_predictions) == [(100, -.3948)]
    four_images = [-11.1002, 5.9263, 9.9627, -8.1484]
    assert find_weights(x[:4], four_images) == [(4269, -.1013)]
    assert find_weights(x[:4], four_images, seed=43) == []
    assert find_weights(x[:4], four_images, limit=4269) == []
    assert find_weights(x[:4].double(), torch.tensor(four_images)[:, None], limit=4270) == [(4269, -.1013)]


def test_other_numbers_of_weights_are_found_too():
    x = torch.rand(4, 160, generator=torch.Generator().manual_seed(0))
    skip_draws(777)
    printed = x@torch.randn(160, 1)
    (place, bias), = find_weights(x, printed, limit=10_000)
    assert place == 777 and abs(bias) < 1e-4


@pytest.mark.parametrize('x, printed, kwargs, error, message', [
    (torch.rand(2, 784), [1., 2.], {}, ValueError, 'three or more .* got 2 and 2; with fewer'),
    (torch.rand(4, 784), [1., 2., 3.], {}, ValueError, 'a prediction for each, got 4 and 3'),
    (torch.rand(3, 28, 28), [1., 2., 3.], {}, ValueError, r'^find_weights: x must have the shape \(n, k\), got float32 \(3, 28, 28\)$'),
    (torch.rand(3, 100), [1., 2., 3.], {}, ValueError, r'multiple of 16, got \(3, 100\)'),
    (torch.rand(3, 0), [1., 2., 3.], {}, ValueError, r'^find_weights: x is empty, \(3, 0\)'),
    (torch.rand(3, 784)/0, [1., 2., 3.], {}, ValueError, 'must be finite'),
    (torch.rand(3, 784), [1., 2., float('nan')], {}, ValueError, 'must be finite'),
    (torch.ones(3, 784), [1., 1., 1.], {}, ValueError, 'fewer than three of the first 16 inputs differ'),
    (torch.eye(784)[[0, 0, 1]], [1., 1., 2.], {}, ValueError, 'fewer than three of the first 16 inputs differ'),
    (torch.eye(784)[[0]*16 + [1, 2]], [1.]*16 + [2., 3.], {}, ValueError, 'fewer than three of the first 16 inputs differ'),
    (torch.rand(3, 784).numpy(), [1., 2., 3.], {}, TypeError, '^find_weights: x must be a tensor, got ndarray; call torch.as_tensor'),
    (torch.rand(3, 784), [1., 2., 3.], {'tolerance': 0}, ValueError, 'tolerance must be a positive number, got 0'),
    (torch.rand(3, 784), [1., 2., 3.], {'tolerance': float('nan')}, ValueError, 'tolerance must be a positive number'),
    (torch.rand(3, 784), [1., 2., 3.], {'seed': 1.5}, ValueError, 'seed must be a whole number from 0, got 1.5'),
    (torch.rand(3, 784), [1., 2., 3.], {'limit': 0}, ValueError, 'limit must be a whole number from 1, got 0'),
    (torch.ones(3, 784, dtype=torch.uint8), [1., 2., 3.], {}, TypeError, r'^find_weights: x must be floats, got uint8 \(3, 784\); .*call \.float\(\)'),
    ([[.5]*784]*3, [1., 2., 3.], {}, TypeError, '^find_weights: x must be a tensor, got list$')])
def test_find_weights_says_what_it_needs(x, printed, kwargs, error, message):
    with pytest.raises(error, match=message): find_weights(x, printed, **kwargs)


def test_first_bias_is_drawn_after_its_weights(train):
    x, _ = label_pair(*train)
    replay_state('first_predictions')
    predictions = linear1(x[:3], init_params((784, 1)), init_params(1))
    torch.testing.assert_close(predictions.flatten(), torch.tensor([7.5145, 12.6291, 8.7788]), rtol=0, atol=1e-4)


def walks(n, loader):
    for _ in range(n): next(iter(loader))


def test_the_whole_chain_from_the_seed_to_the_second_run(dl):
    loader = torch.utils.data.DataLoader(list(zip(dl.x, dl.y)), batch_size=256)
    assert draws_used(lambda: walks(1, loader)) == 2
    torch.manual_seed(42)
    torch.randn(20), torch.randn(3)
    chapter = linear1(dl.x[:3], init_params((784, 1)), init_params(1))
    torch.testing.assert_close(chapter.flatten(), torch.tensor([20.2336, 17.0644, 15.2384]), rtol=0, atol=6e-5)
    walks(4, loader)
    init_params((784, 1)), init_params(1)
    walks(44, loader)
    for n in (41, 40, 20):
        nn.Linear(784, 1)
        walks(n, loader)
    second = init_params((784, 1)), init_params(1)
    replay_state('linear_model')
    torch.testing.assert_close((init_params((784, 1)), init_params(1)), second, rtol=0, atol=0)
    printed = torch.tensor([-11.1002, 5.9263, 9.9627, -8.1484])
    torch.testing.assert_close(linear1(dl.x[:4], *second).flatten(), printed, rtol=0, atol=5e-5)


def test_the_run_of_most_readers_is_found_and_gives_their_numbers(train, dl, valid_dl):
    from fastai.data.load import DataLoader
    assert find_weights(dl.x[:4], [-2.1876, -8.3973, 2.5, -4.9473]) == [(832, -.9257)]
    torch.manual_seed(42)
    torch.randn(20), torch.randn(3)
    init_params((784, 1)), init_params(1)
    for small in (range(15), range(26)): assert draws_used(lambda: list(DataLoader(small, batch_size=5, shuffle=True))) == 2
    walks(2, torch.utils.data.DataLoader(range(15)))
    weights, bias = init_params((784, 1)), init_params(1)
    skip_draws(832)
    torch.testing.assert_close((init_params((784, 1)), init_params(1)), (weights, bias), rtol=0, atol=0)
    model = partial(linear1, weights=weights, bias=bias)
    accuracies = [validate_epoch(model, valid_dl)]
    for _ in range(3):
        train_epoch(model, dl, [weights, bias], lr=1.)
        accuracies.append(validate_epoch(model, valid_dl))
    assert accuracies == pytest.approx([.5264, .6664, .8266, .89], abs=1.1e-4)


def test_the_parabola_of_the_chapter():
    torch.manual_seed(42)
    time = torch.arange(20).float()
    speed = 3*torch.randn(20) + .75*(time - 9.5)**2 + 1
    params = torch.randn(3).requires_grad_()
    loss = mse(f(time, params), speed)
    loss.backward()
    assert loss.item() == pytest.approx(25823.8086)
    assert params.grad.tolist() == pytest.approx([-53195.8594, -3419.7146, -253.8908])
    apply_step(params, time, speed)
    losses = [mse(apply_step(params, time, speed).detach(), speed).item() for _ in range(10)]
    assert (losses[0], losses[-1]) == (pytest.approx(5435.5366), pytest.approx(676.9537))


def test_the_first_predictions_of_the_chapter_and_its_linear_before_training(dl, valid_dl):
    torch.manual_seed(42)
    torch.randn(20), torch.randn(3)
    preds = linear1(dl.x, init_params((784, 1)), init_params(1))
    torch.testing.assert_close(preds[:2].flatten(), torch.tensor([20.2336, 17.0644]), rtol=0, atol=6e-5)
    assert batch_accuracy(preds, dl.y).item() == pytest.approx(.4912068545818329, abs=1e-7)
    replay_state('basic_optim')
    assert validate_epoch(nn.Linear(784, 1), valid_dl) == pytest.approx(.4157, abs=4e-4)


def test_the_accuracy_of_line_143_compares_each_with_each(dl):
    replay_state('first_predictions')
    for _ in range(2): weights, bias = init_params((784, 1)), init_params(1)
    for _ in range(2):
        positive = linear1(dl.x, weights, bias) > 0
        assert positive.sum() == 1496
        assert (positive == dl.y.squeeze()).float().mean().item() == pytest.approx(.5041003823280334, abs=1e-6)
        assert (positive == dl.y).float().mean().item() == pytest.approx(.4943, abs=5e-5)
        with torch.no_grad(): weights[0] *= 1.001


def test_basic_optim_gives_the_numbers_that_the_chapter_prints(dl, valid_dl):
    replay_state('basic_optim')
    model = nn.Linear(784, 1)
    opt = BasicOptim(model.parameters(), lr=1.)
    history = train_model(model, dl, valid_dl, opt, 20, progress=False)
    assert history['accuracy'] == pytest.approx(REFERENCES['basic_optim'], abs=1.1e-4)
    assert max(abs(a - b) for a, b in zip(history['accuracy'], NOTES['fastai_sgd'])) > .01 # those under the notes' BasicOptim


@pytest.mark.parametrize('step, make_model, epochs, lr', [
    ('fastai_learner', lambda: nn.Linear(784, 1), 10, 1.),
    pytest.param('neural_net', lambda: nn.Sequential(nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 1)), 40, .1, marks=pytest.mark.slow)])
def test_learner_gives_the_numbers_that_the_chapter_prints(dl, valid_dl, one_thread, step, make_model, epochs, lr):
    from mnist_sgd.fastai_learner import fit_learner, make_dls, make_learner
    replay_state(step)
    learn = make_learner(make_dls(dl.x, dl.y, valid_dl.x, valid_dl.y), make_model())
    history = fit_learner(learn, epochs, lr)
    ours = torch.tensor([history[column] for column in ('train_loss', 'valid_loss', 'accuracy')]).T
    torch.testing.assert_close(ours, torch.tensor(REFERENCES[step]), rtol=0, atol=1.5e-6)


def test_front_page_gives_these_counts(numbers):
    verdicts = [n['verdict'] for n in numbers]
    page = ' '.join((Path(__file__).parents[1]/'README.md').read_text(encoding='utf-8').split())
    assert (f"Of the {len(numbers)} numbers that they print, {verdicts.count('reproduced')} come out again here, from the same "
            f"seed. The other {verdicts.count('misprint')} are shown to be wrong.") in page


def test_as_many_places_are_tried_as_was_said():
    generator, x = torch.Generator().manual_seed(5), torch.rand(4, 16)
    torch.rand(300, generator=generator)
    weights = torch.randn(16, 1, generator=generator)
    printed = (x@weights + .5).flatten()
    assert find_weights(x, printed, 5, limit=300) == []
    (place, bias), = find_weights(x, printed, 5, limit=301)
    assert place == 300 and abs(bias - .5) < 1e-4


def test_draws_are_counted_up_to_the_limit():
    assert [draws_used(lambda: torch.rand(n), limit=20) for n in (19, 20)] == [19, 20]
