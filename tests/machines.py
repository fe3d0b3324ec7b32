"""Two machines, as two network namespaces of this one with an address each, and a cable (veth) between them.

They need root and iproute2.
"""
import os, shutil, signal, subprocess, sys
from contextlib import contextmanager

NAMES = [f'mnist-sgd-{os.getpid()}-{i}' for i in (0, 1)]
CABLE = [f'ms{os.getpid() % 10**6}-{i}' for i in (0, 1)] # at most 15 letters
ADDRESS = '10.77.0.1', '10.77.0.2'


def _do(*words): return subprocess.run(words, check=True, capture_output=True)


def _connect():
    for name in NAMES: _do('ip', 'netns', 'add', name)
    _do('ip', 'link', 'add', CABLE[0], 'netns', NAMES[0], 'type', 'veth', 'peer', CABLE[1], 'netns', NAMES[1])
    for name, end, address in zip(NAMES, CABLE, ADDRESS):
        _do('ip', '-n', name, 'addr', 'add', f'{address}/24', 'dev', end)
        for link in (end, 'lo'): _do('ip', '-n', name, 'link', 'set', link, 'up')


@contextmanager
def two_machines():
    "Made, and removed at the end. Raises OSError where that is not permitted."
    if not shutil.which('ip'): raise OSError('iproute2 is not installed')
    try:
        try: _connect()
        except subprocess.CalledProcessError as e: raise OSError(f'namespaces are not permitted here ({e.stderr.decode().strip()})') from e
        yield
    finally:
        for name in NAMES: subprocess.run(['ip', 'netns', 'del', name], capture_output=True)


def limit_rate(rate):
    "No more than this goes through the cable, each way: '1gbit', '100mbit'; None for no limit."
    for name, end in zip(NAMES, CABLE):
        where = 'tc', '-n', name, 'qdisc'
        if rate: _do(*where, 'replace', 'dev', end, 'root', 'tbf', 'rate', rate, 'burst', '32kb', 'latency', '400ms')
        else: subprocess.run([*where, 'del', 'dev', end, 'root'], capture_output=True)


def sent(i):
    "Bytes that a machine has sent over the cable."
    return int(_do('ip', 'netns', 'exec', NAMES[i], 'cat', f'/sys/class/net/{CABLE[i]}/statistics/tx_bytes').stdout)


def node(i, script, *words, nodes='2', restarts=3):
    "torchrun on one machine; the first one hosts the rendezvous. (It does not know its own address, so it is told.)"
    command = ['ip', 'netns', 'exec', NAMES[i], sys.executable, '-m', 'torch.distributed.run', '--nnodes', nodes, '--nproc-per-node', '1',
               '--rdzv-backend', 'c10d', '--rdzv-endpoint', f'{ADDRESS[0]}:29400', '--rdzv-id', 'test',
               '--rdzv-conf', f'is_host={int(i == 0)},last_call_timeout=5,timeout=60',
               '--local-addr', ADDRESS[i], '--max-restarts', str(restarts), str(script), *map(str, words)]
    env = os.environ | {'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': CABLE[i], 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)


def kill(process):
    "A node, with its workers."
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finished(*nodes, seconds=300):
    "What each printed. Raises RuntimeError if one failed; then none of them goes on."
    printed = []
    try:
        for process in nodes:
            out, err = process.communicate(timeout=seconds)
            if process.returncode: raise RuntimeError(err[-2000:])
            printed.append(out)
    finally:
        for process in nodes:
            if process.poll() is None: kill(process)
    return printed
