"""Every number that the notes print, computed again. `python tests/ledger.py` writes what comes out into nbs/ledger.json,
of which appendix 91 makes its tables; tests/test_replay.py compares.
"""
import json
from functools import partial
from pathlib import Path

import torch
from torch import nn, tensor
from torch.utils.data import DataLoader

from mnist_sgd.data import load_pair
from mnist_sgd.linear_model import batch_accuracy, calc_grad, init_params, label_pair, linear1
from mnist_sgd.pixel_similarity import mnist_distance
from mnist_sgd.replay import replay_state
from mnist_sgd.run import climb

LEDGER = Path(__file__).parents[1]/'nbs'/'ledger.json'


def read():
    "The saved rows: line, what, printed, computed, tolerance and why, a row for each thing that the notes print."
    return json.loads(LEDGER.read_text(encoding='utf-8'))


def images(train, valid, printed):
    "Images and distances."
    (threes, sevens), (valid_3, valid_7) = train, valid
    mean3 = threes.mean(0)
    distances = mnist_distance(valid_3, mean3)
    six = printed['six of the validation distances'] # the nearest of ours, for the order of the files is lost
    return {
        'shape of stacked_sevens': sevens.shape,
        'shape of valid_3_tens': valid_3.shape,
        'shape of the validation 7s': valid_7.shape,
        'distance of a_3 from mean3': [mnist_distance(threes[1], mean3)],
        'six of the validation distances': [distances[(distances - d).abs().argmin()] for d in six],
        'shape of valid_3_dist': distances.shape,
        'the square of 3': [tensor(3.)**2]}


def before_training(x, y):
    "Inputs, first predictions and small examples."
    replay_state('first_predictions')
    preds = linear1(x, init_params((28*28, 1)), init_params(1))
    weights, bias = init_params((28*28, 1)), init_params(1) # the same lines, run a second time
    accuracy = batch_accuracy(linear1(x, weights, bias), y)
    with torch.no_grad(): weights[0] *= 1.001
    changed = batch_accuracy(linear1(x, weights, bias), y)
    targets, answers = tensor([1, 0, 1]), tensor([[.9, .4, .2], [.9, .4, .8]])
    losses = torch.where(targets == 1, 1 - answers, answers).mean(1)
    xb, yb = next(iter(DataLoader(list(zip(x, y)), batch_size=256)))
    return {
        'shapes of train_x and train_y': [*x.shape, *y.shape],
        'shape of an input, and its target': [*x[0].shape, y[0]],
        'first and last three predictions': preds[[0, 1, 2, -3, -2, -1]],
        'accuracy of the next model': [accuracy],
        'with one weight changed': [changed],
        'loss of three answers': losses[:1],
        'loss with a better third': losses[1:],
        'shapes of a batch': [*xb.shape, *yb.shape]}


def four_images(x, y):
    "The first four images, and what their gradients are after one, two and three times."
    replay_state('linear_model')
    weights, bias = init_params((28*28, 1)), init_params(1)
    model = partial(linear1, weights=weights, bias=bias)
    preds = model(x[:4])
    gradients = []
    for _ in range(3):
        loss = calc_grad(x[:4], y[:4], model)
        gradients.append([weights.grad.mean().item(), bias.grad.item()])
    return {
        'shape of the four images': x[:4].shape,
        'their predictions': preds,
        'their loss': [loss],
        "shape of the weights' gradient": weights.grad.shape,
        'gradients: mean, bias': gradients[0],
        'gradients after a second time': gradients[1],
        'gradients after a third time': gradients[2],
        'their accuracy': [batch_accuracy(preds, y[:4])]}


def epochs():
    "The training."
    by_hand, sgd = (stage['accuracy'] for stage in climb(progress=False, stages=['linear_model', 'fastai_sgd'])['stages'])
    weight, bias = nn.Linear(784, 1).parameters()
    return {
        'accuracy before training': by_hand[:1],
        'accuracy after one epoch': by_hand[1:2],
        'accuracy after each of twenty more': by_hand[2:],
        'shapes of weight and bias': [*weight.shape, *bias.shape],
        'accuracy after each of twenty epochs': sgd}


def compute():
    "The rows of the ledger with everything computed anew."
    rows = read()
    train, valid = load_pair(3, 7), load_pair(3, 7, split='valid')
    x, y = label_pair(*train)
    found = (images(train, valid, {row['what']: row['printed'] for row in rows})
             | before_training(x, y) | four_images(x, y) | epochs())
    assert list(found) == [row['what'] for row in rows]
    return [row | {'computed': [n.item() if torch.is_tensor(n) else n for n in found[row['what']]]} for row in rows]


def one_by_one(rows):
    "A dict for each number, with its verdict."
    numbers = [row | {'printed': printed, 'computed': computed}
               for row in rows for printed, computed in zip(row['printed'], row['computed'], strict=True)]
    for n in numbers:
        close = abs(n['printed'] - n['computed']) <= n['tolerance'] + 1e-9
        n['verdict'] = 'reproduced' if close else 'misprint'
    return numbers


def write(rows):
    "Save the rows, a line each."
    lines = [json.dumps(row | {'computed': [round(n, 6) for n in row['computed']]}) for row in rows]
    LEDGER.write_text('[\n' + ',\n'.join(lines) + '\n]\n', encoding='utf-8', newline='\n')


if __name__ == '__main__': write(compute())
