"""Two machines, as two network namespaces of this one with an address each, and a cable (veth) between them.

They need root and iproute2. Where namespaces are not permitted the tests are left out, with a message.
"""
import os, shutil, signal, subprocess, sys, time

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mnist_sgd.learner_from_scratch import Learner, Metrics
from mnist_sgd.linear_model import BatchLoader, batch_accuracy, label_pair, mnist_loss
from mnist_sgd.many_workers import step_bytes
from mnist_sgd.neural_net import make_net
from mnist_sgd.replay import replay_state

pytestmark = pytest.mark.slow
NAMES = [f'mnist-sgd-{os.getpid()}-{i}' for i in (0, 1)]
CABLE = [f'ms{os.getpid() % 10**6}-{i}' for i in (0, 1)] # at most 15 letters
ADDRESS = '10.77.0.1', '10.77.0.2'


def ip(*words): subprocess.run(['ip', *words], check=True, capture_output=True)


@pytest.fixture(scope='module')
def machines():
    if not shutil.which('ip'): pytest.skip('iproute2 is not installed')
    try:
        for name in NAMES: ip('netns', 'add', name)
        ip('link', 'add', CABLE[0], 'netns', NAMES[0], 'type', 'veth', 'peer', CABLE[1], 'netns', NAMES[1])
        for name, end, address in zip(NAMES, CABLE, ADDRESS):
            ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', end)
            for link in (end, 'lo'): ip('-n', name, 'link', 'set', link, 'up')
        yield
    except subprocess.CalledProcessError as e: pytest.skip(f'namespaces are not permitted here ({e.stderr.decode().strip()})')
    finally:
        for name in NAMES: subprocess.run(['ip', 'netns', 'del', name], capture_output=True)


def node(i, script, *words, nodes='2', restarts=3):
    "torchrun on one machine; the first one hosts the rendezvous."
    command = ['ip', 'netns', 'exec', NAMES[i], sys.executable, '-m', 'torch.distributed.run', '--nnodes', nodes, '--nproc-per-node', '1',
               '--rdzv-backend', 'c10d', '--rdzv-endpoint', f'{ADDRESS[0]}:29400', '--rdzv-id', 'test', '--rdzv-conf', 'last_call_timeout=5,timeout=60',
               '--local-addr', ADDRESS[i], '--max-restarts', str(restarts), str(script), *map(str, words)]
    env = os.environ | {'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': CABLE[i], 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)


def sent(i):
    "Bytes that a machine has sent over the cable."
    return int(subprocess.check_output(['ip', 'netns', 'exec', NAMES[i], 'cat', f'/sys/class/net/{CABLE[i]}/statistics/tx_bytes']))


def finished(*nodes, seconds=300):
    for process in nodes:
        out, err = process.communicate(timeout=seconds)
        assert process.returncode == 0, err[-2000:]


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
    replay_state('fastai_sgd')
    model = nn.Linear(784, 1)
    return model.state_dict(), Learner((dl, valid_dl), model, mnist_loss, cbs=[Metrics(batch_accuracy)]).fit(12, 1.)['batch_accuracy']


@pytest.fixture
def script(tmp_path):
    (tmp_path/'script.py').write_text(SCRIPT, encoding='utf-8')
    return tmp_path/'script.py'


def test_two_machines_train_as_one(machines, alone, script, tmp_path):
    finished(*[node(i, script, tmp_path/'a.pt', 0) for i in (0, 1)])
    saved = torch.load(tmp_path/'a.pt', weights_only=True)
    assert saved['history']['batch_accuracy'] == pytest.approx(alone[1], abs=6e-4)
    assert_close(saved['model'], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('again, nodes', [(True, '2'), (False, '1:2')])
def test_a_machine_is_lost(machines, alone, script, tmp_path, again, nodes):
    "The one that does not host the rendezvous: started again it rejoins; without it the other goes on, if that is allowed."
    first, second = (node(i, script, tmp_path/'a.pt', 1, nodes=nodes) for i in (0, 1))
    for line in second.stdout:
        if line.startswith('epoch 3'): break
    os.killpg(second.pid, signal.SIGKILL) # all of it
    second.wait()
    rest = [node(1, script, tmp_path/'a.pt', 1, nodes=nodes)] if again else []
    finished(first, *rest)
    saved = torch.load(tmp_path/'a.pt', weights_only=True)
    assert saved['epoch'] == 12 and saved['history']['batch_accuracy'] == pytest.approx(alone[1], abs=6e-4)
    assert_close(saved['model'], alone[0], rtol=1e-4, atol=1e-4)


TRAFFIC = """
import sys, torch
from mnist_sgd import *
torch.manual_seed(0)
x, y = torch.rand(64, 784), torch.randint(2, (64, 1))
dl = BatchLoader(x, y, 8)
model = torch.nn.Linear(784, 1) if sys.argv[1] == '1' else make_net(784, int(sys.argv[1]), 1)
Learner((dl, dl), model, mnist_loss, cbs=[Workers()]).fit(int(sys.argv[2]), .01)
"""


@pytest.mark.parametrize('width', [1, 400])
def test_the_network_carries_what_the_formula_says(machines, tmp_path, width, record_property):
    "Per step, from the counters of the cable: the difference of a long and a short training."
    (tmp_path/'traffic.py').write_text(TRAFFIC, encoding='utf-8')
    counted = []
    for epochs in (1, 11):
        before = sent(0)
        finished(*[node(i, tmp_path/'traffic.py', width, epochs) for i in (0, 1)])
        counted.append(sent(0) - before)
    parameters = 785 if width == 1 else sum(p.numel() for p in make_net(784, width, 1).parameters())
    measured, formula = (counted[1] - counted[0])/80, step_bytes(parameters, 2)
    record_property('count', f'{parameters:,} parameters: {measured:,.0f} bytes a step over the cable, {formula:,.0f} by the formula')
    if width > 1: assert abs(measured/formula - 1) < .2
    else: assert measured > formula # headers weigh as much
