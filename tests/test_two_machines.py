"Two machines: see machines.py. Where they cannot be made the tests are left out, with a message."
import pytest
import torch
from machines import finished, kill, node, sent, two_machines
from torch import nn
from torch.testing import assert_close

from mnist_sgd.learner_from_scratch import Learner, Metrics
from mnist_sgd.linear_model import batch_accuracy, mnist_loss
from mnist_sgd.many_workers import step_bytes
from mnist_sgd.neural_net import make_net
from mnist_sgd.replay import replay_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def machines():
    try:
        with two_machines(): yield
    except OSError as e: pytest.skip(str(e))


SCRIPT = """
import os, sys, time, torch
from mnist_sgd import *
class Slow:
    def after_epoch(self, learn):
        print('epoch', checkpoint.done, flush=True)
        time.sleep(float(sys.argv[2]))
replay_state('fastai_sgd')
model = torch.nn.Linear(784, 1)
dls = [BatchLoader(*label_pair(*load_pair(3, 7, split))) for split in ('train', 'valid')]
checkpoint = Checkpoint(sys.argv[1])
if checkpoint.done < 12: Learner(dls, model, mnist_loss, cbs=[Workers(), Metrics(batch_accuracy), checkpoint, Slow()]).fit(12 - checkpoint.done, 1.)
"""


@pytest.fixture(scope='module')
def alone(dl, valid_dl):
    "The weights and the accuracies of one process."
    replay_state('fastai_sgd')
    model = nn.Linear(784, 1)
    return model.state_dict(), Learner((dl, valid_dl), model, mnist_loss, cbs=[Metrics(batch_accuracy)]).fit(12, 1.)['batch_accuracy']


@pytest.fixture(scope='module')
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp('two')/'script.py'
    path.write_text(SCRIPT, encoding='utf-8')
    return path


@pytest.fixture(scope='module')
def undisturbed(machines, script, tmp_path_factory):
    "The checkpoint of two machines that nothing happens to."
    path = tmp_path_factory.mktemp('undisturbed')/'a.pt'
    finished(*[node(i, script, path, 0) for i in (0, 1)])
    return torch.load(path, weights_only=True)


def test_two_machines_train_as_one(alone, undisturbed):
    assert undisturbed['history']['batch_accuracy'] == pytest.approx(alone[1], abs=6e-4)
    assert_close(undisturbed['model'], alone[0], rtol=1e-4, atol=1e-4)


def lose_one(script, path, again, nodes):
    "What is saved after 12 epochs; the machine that does not host the rendezvous was lost in the third, and perhaps started again."
    first, second = (node(i, script, path, 1, nodes=nodes) for i in (0, 1))
    for line in second.stdout:
        if line.startswith('epoch 3'): break
    kill(second)
    assert 3 <= torch.load(path, weights_only=True)['epoch'] < 12
    rest = [node(1, script, path, 1, nodes=nodes)] if again else []
    finished(first, *rest)
    saved = torch.load(path, weights_only=True)
    assert saved['epoch'] == 12
    return saved


def test_a_lost_machine_is_started_again(undisturbed, script, tmp_path):
    saved = lose_one(script, tmp_path/'a.pt', True, '2')
    assert saved['history'] == undisturbed['history']
    assert_close(saved['model'], undisturbed['model'], rtol=0, atol=0) # the same bits


def test_the_other_goes_on_alone(alone, machines, script, tmp_path):
    saved = lose_one(script, tmp_path/'a.pt', False, '1:2')
    assert saved['history']['batch_accuracy'] == pytest.approx(alone[1], abs=6e-4)
    assert_close(saved['model'], alone[0], rtol=1e-4, atol=1e-4)


TRAFFIC = """
import sys, torch
from mnist_sgd import *
torch.manual_seed(0)
x, y = torch.rand(800, 784), torch.randint(2, (800, 1))
dl, few = BatchLoader(x, y, 8), BatchLoader(x[:8], y[:8])
model = torch.nn.Linear(784, 1) if sys.argv[1] == '1' else make_net(784, int(sys.argv[1]), 1)
Learner((dl, few), model, mnist_loss, cbs=[Workers()]).fit(int(sys.argv[2]), .01)
"""


@pytest.mark.parametrize('width', [1, 400])
def test_the_network_carries_what_the_formula_says(machines, tmp_path, width):
    "Per step, from the counters of the cable: the difference of a long and a short training."
    (tmp_path/'traffic.py').write_text(TRAFFIC, encoding='utf-8')
    counted = []
    for epochs in (1, 5):
        before = sent(0)
        finished(*[node(i, tmp_path/'traffic.py', width, epochs) for i in (0, 1)])
        counted.append(sent(0) - before)
    parameters = 785 if width == 1 else sum(p.numel() for p in make_net(784, width, 1).parameters())
    measured, formula = (counted[1] - counted[0])/400, step_bytes(parameters, 2)
    print(f'{parameters:,} parameters: {measured:,.0f} bytes a step over the cable, {formula:,.0f} by the formula')
    if width > 1: assert 0 < measured/formula - 1 < .05
    else: assert formula < measured < 2*formula # headers weigh as much
