"The file of all images, the folder that is written from it, and files that are whole or not there."
import ast, hashlib, multiprocessing, os, struct, subprocess, sys, threading, time

import numpy as np
import pytest
import torch
from conftest import needs_links, needs_pipes
from PIL import Image
from torch.testing import assert_close

from mnist_sgd import storage
from mnist_sgd.data import load_digit
from mnist_sgd.storage import IDX_MD5, NPZ, _load, mnist_sample, pack_mnist, sample_files, write_file

SHA256 = 'db5a26d8b243852c2f29791fca2c2c89efa72afebf5f44bbf50dc6a37d409847'


def md5(path): return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(folder, source, images, labels):
    "The two IDX files of a split, as MNIST was published."
    n = len(labels)
    (folder/f'{source}-images-idx3-ubyte').write_bytes(struct.pack('>4i', 2051, n, 28, 28) + images.tobytes())
    (folder/f'{source}-labels-idx1-ubyte').write_bytes(struct.pack('>2i', 2049, n) + labels.tobytes())


@pytest.fixture(scope='module')
def idx_dir(tmp_path_factory):
    "The four published files, rebuilt from the npz: every image goes back to its place in the original set."
    folder = tmp_path_factory.mktemp('idx')
    with np.load(NPZ) as packed:
        for split, source in (('train', 'train'), ('valid', 't10k')):
            labels = packed[f'{split}_labels']
            images = np.empty((len(labels), 28, 28), np.uint8)
            for digit in range(10):
                places = sorted(np.flatnonzero(labels == digit).tolist(), key=str)
                images[places] = packed[f'{split}_{digit}']
            write_idx(folder, source, images, labels)
    return folder


@pytest.fixture(scope='module')
def sample(tmp_path_factory): return mnist_sample(tmp_path_factory.mktemp('cache'), progress=False)


def test_npz_holds_the_published_mnist(idx_dir):
    assert {name: md5(idx_dir/name) for name in IDX_MD5} == IDX_MD5


def test_headers_are_parsed_in_one_thread(monkeypatch):
    "Python 3.11 can fail in `ast` when two threads parse: SystemError: AST constructor recursion depth mismatch."
    threads, literal_eval = set(), ast.literal_eval
    def noting(text):
        threads.add(threading.current_thread())
        return literal_eval(text)
    monkeypatch.setattr(ast, 'literal_eval', noting)
    _load(range(10), 'valid', torch.uint8, NPZ)
    assert threads == {threading.current_thread()}


def test_npz_is_the_one_that_was_packed():
    assert hashlib.sha256(NPZ.read_bytes()).hexdigest() == SHA256


@pytest.mark.slow
def test_packing_gives_what_is_in_the_package(idx_dir, tmp_path):
    with np.load(pack_mnist(idx_dir, tmp_path/'a.npz')) as ours, np.load(NPZ) as packed:
        assert ours.files == packed.files
        assert all((ours[name] == packed[name]).all() for name in packed.files)


def test_packing_gives_the_same_bytes_each_time(tmp_path, monkeypatch):
    for source, n in (('train', 30), ('t10k', 20)):
        images = np.random.default_rng(n).integers(256, size=(n, 28, 28), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8)%10
        write_idx(tmp_path, source, images, labels)
    monkeypatch.setattr(storage, 'IDX_MD5', {name: md5(tmp_path/name) for name in IDX_MD5})
    first = pack_mnist(tmp_path, tmp_path/'a.npz').read_bytes()
    monkeypatch.setattr(time, 'time', lambda: 1e9) # another day
    second = pack_mnist(str(tmp_path), str(tmp_path/'b.npz'))
    assert first == second.read_bytes()
    with np.load(second) as packed: assert len(packed['train_3']) == 3 and len(packed['valid_9']) == 2


def test_pack_refuses_a_wrong_file_and_writes_nothing(idx_dir, tmp_path):
    wrong = tmp_path/'idx'
    wrong.mkdir()
    for name in IDX_MD5: (wrong/name).write_bytes((idx_dir/name).read_bytes())
    with open(wrong/'t10k-labels-idx1-ubyte', 'r+b') as f: f.write(b'\1')
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is not MNIST's file: its md5 is"):
        pack_mnist(wrong, tmp_path/'out.npz')
    with pytest.raises(ValueError, match='cannot read .*train-images-idx3-ubyte'):
        pack_mnist(tmp_path/'absent', tmp_path/'out.npz')
    with pytest.raises(ValueError, match='cannot write'):
        pack_mnist(idx_dir, tmp_path/'absent'/'out.npz')
    assert [o.name for o in tmp_path.iterdir()] == ['idx']


@needs_pipes
def test_pack_does_not_replace_a_pipe(idx_dir, tmp_path):
    os.mkfifo(tmp_path/'pipe')
    with pytest.raises(ValueError, match='it exists and is not a file'): pack_mnist(idx_dir, tmp_path/'pipe')
    assert (tmp_path/'pipe').is_fifo() and [o.name for o in tmp_path.iterdir()] == ['pipe']


def test_absent_npz(tmp_path):
    with pytest.raises(ValueError, match='cannot read .*absent.npz .*name a file made by pack_mnist'):
        load_digit(3, npz=tmp_path/'absent.npz')


@pytest.mark.parametrize('damage', ['cut', 'flip', 'text', 'other npz', 'other shape', 'other type', 'no image'])
def test_damaged_npz(tmp_path, damage):
    npz, good = tmp_path/'mnist.npz', NPZ.read_bytes()
    if damage == 'cut': npz.write_bytes(good[:len(good)//2])
    if damage == 'text': npz.write_text('not a zip', encoding='utf-8')
    if damage == 'other npz': np.savez(npz, other=np.zeros(3))
    if damage == 'other shape': np.savez(npz, train_3=np.zeros(3, np.uint8))
    if damage == 'other type': np.savez(npz, train_3=np.zeros((3, 28, 28)))
    if damage == 'no image': np.savez(npz, train_3=np.zeros((0, 28, 28), np.uint8))
    if damage == 'flip':
        start = good.index(b'train_3.npy') + 5000
        npz.write_bytes(good[:start] + bytes(255 - b for b in good[start:start + 200]) + good[start + 200:])
    with pytest.raises(ValueError, match='is damaged or not a packed MNIST .*install mnist_sgd again'):
        load_digit(3, npz=npz)


def test_names_of_the_files():
    names = sample_files()
    assert {key: len(group) for key, group in names.items()} == {
        ('train', 3): 6131, ('train', 7): 6265, ('valid', 3): 1010, ('valid', 7): 1028}
    assert names['train', 3][:3] == ['train/3/10.png', 'train/3/10000.png', 'train/3/10011.png']
    with pytest.raises(ValueError, match='name a file made by pack_mnist'): sample_files('nothing.npz')


def test_files_equal_tensors(sample, train, valid):
    for split, pair in (('train', train), ('valid', valid)):
        for digit, images in zip((3, 7), pair):
            files = sorted((sample/split/str(digit)).iterdir())
            assert [f'{split}/{digit}/{o.name}' for o in files] == sample_files()[split, digit]
            opened = torch.stack([torch.tensor(np.array(Image.open(o))) for o in files])
            assert_close(opened.float()/255, images, rtol=0, atol=0)


def test_folder_is_complete(sample):
    assert sorted(o.name for o in sample.iterdir()) == ['labels.csv', 'train', 'valid']
    assert [o.name for o in sorted((sample/'train'/'3').iterdir())[:3]] == ['10.png', '10000.png', '10011.png']
    lines = (sample/'labels.csv').read_text(encoding='utf-8').splitlines()
    assert lines[0] == 'name,label' and len(lines) == 14435
    assert all(line.endswith(',0' if '/3/' in line else ',1') for line in lines[1:])
    assert {line.partition(',')[0] for line in lines[1:]} == {n for names in sample_files().values() for n in names}


def test_second_call_writes_nothing(sample, monkeypatch):
    monkeypatch.setattr(storage, '_write_files', lambda *args: pytest.fail('written again'))
    assert mnist_sample(sample.parent) == sample


def test_environment_names_the_cache(sample, monkeypatch):
    monkeypatch.setenv('MNIST_SGD_CACHE', str(sample.parent))
    assert mnist_sample() == sample


@needs_links
def test_reuses_fastai_download(sample, tmp_path, monkeypatch):
    monkeypatch.delenv('MNIST_SGD_CACHE', raising=False)
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'own'))
    (tmp_path/'archive').symlink_to(sample.parent)
    (tmp_path/'config.ini').write_text('[DEFAULT]\ndata = archive\n', encoding='utf-8')
    assert mnist_sample() == tmp_path/'archive'/'mnist_sample'
    (tmp_path/'config.ini').write_text('[DEFAULT]\ndata = nothing here\n', encoding='utf-8')
    (tmp_path/'own').mkdir()
    (tmp_path/'own'/'mnist_sgd').symlink_to(sample.parent)
    assert mnist_sample(progress=False) == tmp_path/'own'/'mnist_sgd'/'mnist_sample'


@pytest.mark.parametrize('damage', ['missing', 'empty', 'no labels'])
def test_damaged_cache(sample, damage):
    file = sample/{'missing': 'train/3/10000.png', 'empty': 'valid/7/0.png', 'no labels': 'labels.csv'}[damage]
    content = file.read_bytes()
    file.unlink()
    if damage == 'empty': file.write_bytes(b'')
    with pytest.raises(ValueError, match='is damaged: 1 of 14435 files are missing or empty; delete the folder'):
        mnist_sample(sample.parent)
    file.write_bytes(content)


def test_unwritable_cache(tmp_path):
    file = tmp_path/'file'
    file.write_text('', encoding='utf-8')
    with pytest.raises(ValueError, match='cannot write the MNIST sample into .*cache_dir.*MNIST_SGD_CACHE'):
        mnist_sample(file/'cache')


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self, name): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(ValueError, match='No space left on device'): mnist_sample(tmp_path, progress=False)
    assert not (tmp_path/'mnist_sample').exists() and not (tmp_path/'mnist_sample.partial').exists()


WRITE = 'import sys; from mnist_sgd.storage import mnist_sample; mnist_sample(sys.argv[1], progress=False)'


def test_killed_half_way_is_absent_then_complete(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', WRITE, tmp_path])
    partial = tmp_path/'mnist_sample.partial'/'train'/'3'
    deadline = time.monotonic() + 60
    while not (partial.is_dir() and any(partial.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(.005)
    process.kill()
    process.wait()
    assert not (tmp_path/'mnist_sample').exists()
    folder = mnist_sample(tmp_path, progress=False)
    assert len(list((folder/'train'/'3').iterdir())) == 6131
    assert not (tmp_path/'mnist_sample.partial').exists()


def test_eight_processes_at_once(tmp_path, capfd):
    "Forked from one that has torch already, where processes can be forked: to import it takes longer than to write."
    forks = 'forkserver' in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('forkserver' if forks else 'spawn')
    if forks: context.set_forkserver_preload(['mnist_sgd.storage'])
    many = [context.Process(target=mnist_sample, args=(tmp_path,), kwargs={'progress': False}) for _ in range(8)]
    for process in many: process.start()
    for process in many: process.join()
    assert [process.exitcode for process in many] == [0]*8 and capfd.readouterr().err == ''
    assert sum(1 for o in (tmp_path/'mnist_sample').rglob('*.png')) == 14434


def written(path, *writers):
    "What the folder holds after these functions were let write the file `path`, one after the other."
    for write in writers:
        try: write_file(path, write)
        except (ValueError, RuntimeError): pass
    return {o.name: o.read_bytes() for o in path.parent.iterdir()}


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), RuntimeError('stopped')])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, error):
    def break_off(file):
        file.write(b'ha')
        raise error
    assert written(tmp_path/'a', break_off) == {}
    assert written(tmp_path/'a', lambda f: f.write(b'old'), break_off) == {'a': b'old'}
    assert written(tmp_path/'a', lambda f: f.write(b'new')) == {'a': b'new'}


def test_a_file_has_another_name_while_it_is_written(tmp_path):
    write_file(tmp_path/'a', lambda f: f.write(os.path.basename(f.name).encode()))
    assert (tmp_path/'a').read_bytes() not in (b'', b'a')


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(ValueError, match='it exists and is not a file'): write_file(tmp_path, lambda f: f.write(b'new'))


@needs_links
def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path/'link').symlink_to(tmp_path/'a')
    write_file(tmp_path/'link', lambda f: f.write(b'new'))
    assert (tmp_path/'link').is_symlink() and (tmp_path/'a').read_bytes() == b'new'


@needs_links
def test_a_link_that_leads_to_itself_is_not_written_over(tmp_path):
    (tmp_path/'loop').symlink_to('loop')
    with pytest.raises(ValueError, match='cannot write .*loop: it exists and is not a file'):
        write_file(tmp_path/'loop', lambda f: f.write(b'new'))
    assert (tmp_path/'loop').is_symlink() and [o.name for o in tmp_path.iterdir()] == ['loop']
