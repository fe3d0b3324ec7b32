"The file of all images, the folders that are written from it, and files that are whole or not there."
import ast, gzip, hashlib, io, multiprocessing, os, shutil, stat, struct, subprocess, sys, threading, time, zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import WINDOWS, needs_links, needs_pipes
from filelock import FileLock
from PIL import Image
from torch.testing import assert_close

from mnist_sgd import storage
from mnist_sgd.data import load_digit, load_pair
from mnist_sgd.storage import (IDX_MD5, NPZ, _load, load_arrays, load_folder, mnist_png, mnist_sample, pack_mnist,
                               sample_files, write_file)

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


def tiny_set(folder, seed=0):
    "An IDX set of 30 images to train on and 20 to test with, and its labels."
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for source, n in (('train', 30), ('t10k', 20)):
        labels = generator.permutation(np.arange(n, dtype=np.uint8)%10)
        write_idx(folder, source, generator.integers(256, size=(n, 28, 28), dtype=np.uint8), labels)
    return folder


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A packed set of 50 images."
    folder = tmp_path_factory.mktemp('tiny')
    return pack_mnist(tiny_set(folder/'idx'), folder/'tiny.npz', md5=None)


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
    known = {name: md5(tiny_set(tmp_path)/name) for name in IDX_MD5}
    first = pack_mnist(tmp_path, tmp_path/'a.npz', md5=known).read_bytes()
    monkeypatch.setattr(time, 'time', lambda: 1e9) # another day
    second = pack_mnist(str(tmp_path), str(tmp_path/'b.npz'), md5=None)
    assert first == second.read_bytes()
    with pytest.raises(ValueError, match="is not MNIST's file: its md5 is .* another data set with md5=None"): pack_mnist(tmp_path, tmp_path/'c.npz')
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


def test_another_data_set_is_packed_from_gz_files_too(tmp_path, tiny):
    for name in IDX_MD5:
        if name != 't10k-labels-idx1-ubyte': # a plain file among them
            (tmp_path/f'{name}.gz').write_bytes(gzip.compress((tiny.parent/'idx'/name).read_bytes()))
    shutil.copy(tiny.parent/'idx'/'t10k-labels-idx1-ubyte', tmp_path)
    (tmp_path/'t10k-labels-idx1-ubyte.gz').write_bytes(b'not looked at')
    assert pack_mnist(tmp_path, tmp_path/'a.npz', md5=None).read_bytes() == tiny.read_bytes()
    assert load_digit(3, 'test', npz=tiny).shape == (2, 28, 28)


BROKEN = {
    'empty': ('train-images-idx3-ubyte', lambda b: b'', 'is no IDX file of images: it must begin with 0, 0, 8, 3'),
    'header only': ('train-images-idx3-ubyte', lambda b: b[:9], 'is no IDX file of images'),
    'labels for images': ('train-images-idx3-ubyte', lambda b: struct.pack('>2i', 2049, 3) + b'123', 'is no IDX file of images'),
    'other type': ('train-images-idx3-ubyte', lambda b: b'\0\0\x0d' + b[3:], 'is no IDX file of images'),
    'images for labels': ('t10k-labels-idx1-ubyte', lambda b: struct.pack('>4i', 2051, 1, 28, 28) + bytes(784), 'is no IDX file of labels'),
    'cut': ('train-images-idx3-ubyte', lambda b: b[:-5], r'must have 23,536 bytes by its header, and has 23,531'),
    'longer': ('t10k-labels-idx1-ubyte', lambda b: b + b'\1', 'must have 28 bytes by its header, and has 29'),
    'huge': ('train-labels-idx1-ubyte', lambda b: b[:4] + b'\xff'*4 + b[8:], 'must have 4,294,967,303 bytes'),
    'pixels': ('t10k-images-idx3-ubyte', lambda b: struct.pack('>4i', 2051, 20, 32, 32) + bytes(20*32*32), 'holds images of 32 x 32 pixels, not 28 x 28'),
    'letters': ('train-labels-idx1-ubyte', lambda b: b[:-1] + b'\x0a', 'has (a label 10; they must be from 0 to 9|no label .)'),
    'no nines': ('t10k-labels-idx1-ubyte', lambda b: b[:8] + b[8:].replace(b'\x09', b'\0'), 'has no label 9; it needs all from 0 to 9'),
    'counts': ('t10k-labels-idx1-ubyte', lambda b: struct.pack('>2i', 2049, 21) + b[8:] + b'\1', 'has 21 labels for 20 images')}


@pytest.mark.parametrize('fault', BROKEN)
@pytest.mark.parametrize('ending', ['', '.gz'])
def test_a_broken_idx_file_is_refused_in_one_sentence(tmp_path, fault, ending):
    name, change, message = BROKEN[fault]
    file = tiny_set(tmp_path/'idx')/name
    content = change(file.read_bytes())
    file.unlink()
    (tmp_path/'idx'/(name + ending)).write_bytes(gzip.compress(content, mtime=0) if ending else content)
    with pytest.raises(ValueError, match=f'{name} {message}'): pack_mnist(tmp_path/'idx', tmp_path/'a.npz', md5=None)
    assert [o.name for o in tmp_path.iterdir()] == ['idx']


def test_a_label_that_is_no_digit_is_refused(tmp_path):
    labels = np.array([*range(10), 10], np.uint8)
    for source in ('train', 't10k'): write_idx(tmp_path, source, np.zeros((11, 28, 28), np.uint8), labels)
    with pytest.raises(ValueError, match='train-labels-idx1-ubyte has a label 10; they must be from 0 to 9'):
        pack_mnist(tmp_path, tmp_path/'a.npz', md5=None)


@pytest.mark.parametrize('content', [b'not gzip', gzip.compress(bytes(99), mtime=0)[:20], gzip.compress(bytes(99), mtime=0)[:12] + b'\xff'*12])
def test_a_broken_gz_file_is_refused_in_one_sentence(tmp_path, content):
    (tiny_set(tmp_path)/'train-images-idx3-ubyte').unlink()
    (tmp_path/'train-images-idx3-ubyte.gz').write_bytes(content)
    with pytest.raises(ValueError, match='cannot read .*train-images-idx3-ubyte .*pack_mnist needs'): pack_mnist(tmp_path, tmp_path/'a.npz', md5=None)


def test_a_gz_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, '_MOST', 10_000_000)
    (tiny_set(tmp_path)/'train-images-idx3-ubyte').unlink()
    (tmp_path/'train-images-idx3-ubyte.gz').write_bytes(gzip.compress(bytes(20_000_000)))
    with pytest.raises(ValueError, match='train-images-idx3-ubyte holds more than 10 MB'): pack_mnist(tmp_path, tmp_path/'a.npz', md5=None)


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


def test_an_npz_that_would_unpack_to_too_much_is_refused_before(tmp_path):
    with zipfile.ZipFile(tmp_path/'bomb.npz', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ('train_3', 'train_7', 'train_labels', 'valid_labels'): archive.writestr(f'{name}.npy', bytes(110_000_000))
    start = time.process_time()
    for load in (lambda npz: load_pair(3, 7, npz=npz), lambda npz: mnist_sample(tmp_path/'cache', npz=npz)):
        with pytest.raises(ValueError, match='bomb.npz .*it would unpack to 220 MB, which is more than 200'): load(tmp_path/'bomb.npz')
    assert time.process_time() - start < .2


def test_an_npz_whose_header_lies_about_its_size_does_not_fill_the_memory(tmp_path):
    resource = pytest.importorskip('resource') # which Windows lacks
    with zipfile.ZipFile(tmp_path/'liar.npz', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open('train_3.npy', 'w') as f:
            for _ in range(400): f.write(bytes(1_000_000)) # in pieces: what this process has used at most is measured below
    content = (tmp_path/'liar.npz').read_bytes().replace(struct.pack('<L', 400_000_000), struct.pack('<L', 1_000_000))
    (tmp_path/'liar.npz').write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match='liar.npz is damaged or not a packed MNIST'): load_digit(3, npz=tmp_path/'liar.npz')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000 # KB


def header_of_a_million_million(npz):
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {'descr': '|u1', 'fortran_order': False, 'shape': (10**12, 28, 28)})
    with zipfile.ZipFile(npz, 'w') as archive: archive.writestr('train_3.npy', array.getvalue())


@pytest.mark.parametrize('make', [
    header_of_a_million_million, lambda npz: np.save(npz.with_suffix('.npy'), np.zeros(3)) or npz.with_suffix('.npy').rename(npz),
    lambda npz: zipfile.ZipFile(npz, 'w').close(), lambda npz: npz.mkdir(), lambda npz: np.savez(npz, train_3=np.array([{}])),
    lambda npz: zipfile.ZipFile(npz, 'w', zipfile.ZIP_LZMA).writestr('train_3.npy', b'1')])
def test_odd_files_in_place_of_an_npz(tmp_path, make):
    make(tmp_path/'odd.npz')
    with pytest.raises(ValueError, match='odd.npz is damaged or not a packed MNIST|^cannot read .*odd.npz .Is a directory'): load_digit(3, npz=tmp_path/'odd.npz')


def test_labels_and_images_that_do_not_fit_are_noticed(tiny, tmp_path):
    with np.load(tiny) as packed: arrays = dict(packed)
    for change in ({'train_3': arrays['train_3'][1:]}, {'train_labels': arrays['train_labels'][1:]}, {'train_labels': arrays['train_labels'] + 1}):
        np.savez(tmp_path/'odd.npz', **arrays | change)
        for load in (lambda npz: load_arrays(npz=npz), lambda npz: mnist_png(tmp_path/'cache', progress=False, npz=npz)):
            with pytest.raises(ValueError, match='odd.npz is damaged or not a packed MNIST'): load(tmp_path/'odd.npz')
        assert not (tmp_path/'cache'/'mnist_png').exists()


def test_arrays_are_in_the_order_in_which_mnist_was_published(idx_dir):
    for split, source in (('train', 'train'), ('valid', 't10k'), ('test', 't10k')):
        images, labels = load_arrays(split)
        assert (images.dtype, labels.dtype, images.shape[1:]) == (np.uint8, np.int64, (28, 28)) and images.flags.writeable
        assert images.tobytes() == (idx_dir/f'{source}-images-idx3-ubyte').read_bytes()[16:]
        assert labels.astype(np.uint8).tobytes() == (idx_dir/f'{source}-labels-idx1-ubyte').read_bytes()[8:]
    with pytest.raises(ValueError, match="split must be 'train', 'valid' or 'test' .the last two are the same., got 'tests'"): load_arrays('tests')


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
    (tmp_path/'own').mkdir()
    (tmp_path/'own'/'mnist_sgd').symlink_to(sample.parent)
    (tmp_path/'config.ini').write_text('[DEFAULT]\ndata = archive\n', encoding='utf-8')
    assert mnist_sample() == tmp_path/'archive'/'mnist_sample'
    (tmp_path/'config.ini').write_text('[DEFAULT]\ndata = nothing here\n', encoding='utf-8')
    assert mnist_sample(progress=False) == tmp_path/'own'/'mnist_sgd'/'mnist_sample'


@pytest.mark.parametrize('config', [b'[DEFAULT]\ndata = \xff\xfe\x00', '[DEFAULT]\ndata = mine'.encode('utf-16'), b'[DEFAULT]\nother = 1\n', b'no section', b''])
def test_a_config_of_fastai_that_says_nothing_means_its_usual_folder(sample, tmp_path, monkeypatch, config):
    monkeypatch.delenv('MNIST_SGD_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'own'))
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    (tmp_path/'config.ini').write_bytes(config)
    monkeypatch.setattr(storage, '_wrong', lambda *args: []) # it is not looked at here
    (tmp_path/'data'/'mnist_sample').mkdir(parents=True)
    assert mnist_sample() == tmp_path/'data'/'mnist_sample'


@pytest.mark.skipif(WINDOWS, reason='Windows finds the home folder otherwise')
def test_without_a_home_folder_a_sentence_says_what_to_do(sample, monkeypatch):
    for name in ('HOME', 'FASTAI_HOME', 'XDG_CACHE_HOME', 'MNIST_SGD_CACHE'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('os.path.expanduser', lambda path: path) # as for a user whom the system does not know
    with pytest.raises(ValueError, match='there is no home folder to keep images in; give a cache_dir, or set MNIST_SGD_CACHE'): mnist_sample()
    assert mnist_sample(sample.parent) == sample


@pytest.fixture(scope='module')
def small(tmp_path_factory, tiny): return mnist_sample(tmp_path_factory.mktemp('small'), progress=False, npz=tiny)


DAMAGE = {
    'missing': ('train/3', lambda file: file.unlink()),
    'empty': ('valid/7', lambda file: file.write_bytes(b'')),
    'no labels': ('labels.csv', lambda file: file.unlink()),
    'foreign labels': ('labels.csv', lambda file: file.write_text('name,label\na.png,1\n', encoding='utf-8')),
    'one label': ('labels.csv', lambda file: file.write_bytes(file.read_bytes().replace(b',0', b',1', 1))),
    'a 7 over a 3': ('train/3', lambda file: shutil.copy(min((file.parents[1]/'7').iterdir()), file)),
    'a 7 over a 3, with its time': ('train/3', lambda file: shutil.copy2(min((file.parents[1]/'7').iterdir()), file)),
    'a 3 over a 3': ('train/3', lambda file: shutil.copy2(max(file.parent.iterdir()), file)),
    'cut': ('train/3', lambda file: file.write_bytes(file.read_bytes()[:100])),
    'no image': ('valid/7', lambda file: file.write_bytes(b'<html>')),
    'in colour': ('valid/7', lambda file: Image.open(file).convert('RGB').save(file)),
    'one more': ('valid/7/mine.png', lambda file: shutil.copy(min(file.parent.iterdir()), file))}


@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_cache(small, tiny, damage):
    name, change = DAMAGE[damage]
    file = min((small/name).iterdir()) if (small/name).is_dir() else small/name
    content = file.read_bytes() if file.exists() else None
    change(file)
    name = file.relative_to(small).as_posix()
    for _ in range(2):
        with pytest.raises(ValueError, match=f"is damaged: 1 of its files are missing, extra or not MNIST's, such as {name}; move the folder away"):
            mnist_sample(small.parent, npz=tiny)
    if content: file.write_bytes(content)
    else: file.unlink()
    assert mnist_sample(small.parent, progress=False, npz=tiny) == small


def test_a_good_cache_is_looked_through_once(small, tiny, monkeypatch):
    mnist_sample(small.parent, progress=False, npz=tiny)
    monkeypatch.setattr(storage, '_look_through', lambda *args: pytest.fail('looked through again'))
    assert mnist_sample(small.parent, npz=tiny) == small
    os.utime(small/'labels.csv')
    with pytest.raises(pytest.fail.Exception): mnist_sample(small.parent, npz=tiny)


def test_a_cache_of_another_data_set_is_not_taken(tiny, tmp_path):
    folder = mnist_sample(tmp_path/'a', progress=False, npz=tiny)
    assert mnist_sample(tmp_path/'a', progress=False, npz=tiny) == folder
    other = pack_mnist(tiny_set(tmp_path/'idx', seed=1), tmp_path/'other.npz', md5=None)
    with pytest.raises(ValueError, match='is damaged'): mnist_sample(tmp_path/'a', progress=False, npz=other)


def test_a_cache_of_which_nothing_can_be_kept_is_looked_through_each_time(tiny, tmp_path, monkeypatch):
    folder = mnist_sample(tmp_path, progress=False, npz=tiny)
    (tmp_path/'mnist_sample.checked').unlink()
    (tmp_path/'mnist_sample.checked').mkdir()
    for _ in range(2): assert mnist_sample(tmp_path, npz=tiny) == folder


@pytest.mark.parametrize('write', [mnist_sample, mnist_png])
@pytest.mark.parametrize('name', ['thesis.txt', '.profile', 'train/'])
def test_nothing_is_written_into_a_folder_with_other_things(tiny, tmp_path, write, name):
    (tmp_path/name).mkdir() if name.endswith('/') else (tmp_path/name).write_bytes(b'mine')
    with pytest.raises(ValueError, match=f"holds other files, such as {name.strip('/')}; name a new folder"): write(tmp_path, npz=tiny)
    assert [o.name for o in tmp_path.iterdir()] == [name.strip('/')]


@needs_links
def test_a_link_in_the_place_of_what_is_partly_written_is_not_followed(tiny, tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'cache').mkdir()
    (tmp_path/'cache'/'mnist_sample.partial').symlink_to(tmp_path/'mine')
    with pytest.raises(ValueError, match='cannot write mnist_sample into'): mnist_sample(tmp_path/'cache', progress=False, npz=tiny)
    assert not list((tmp_path/'mine').iterdir())


def test_all_ten_digits_as_files(tiny, tmp_path):
    folder = mnist_png(tmp_path, progress=False, npz=tiny)
    assert folder == tmp_path/'mnist_png' == mnist_png(tmp_path, npz=tiny)
    assert sorted(o.name for o in folder.iterdir()) == ['testing', 'training']
    for split, name in (('train', 'training'), ('test', 'testing')):
        images, labels = load_arrays(split, tiny)
        assert sorted(o.name for o in (folder/name).iterdir()) == [*'0123456789']
        files = list((folder/name).rglob('*.png'))
        assert len(files) == len(labels)
        for file in files: # named by its place in the original set
            assert labels[int(file.stem)] == int(file.parent.name) and (np.array(Image.open(file)) == images[int(file.stem)]).all()
    shutil.copy(next((folder/'training'/'7').iterdir()), next((folder/'training'/'3').iterdir()))
    with pytest.raises(ValueError, match="mnist_png is damaged: 1 of its files are .*, such as training/3/"): mnist_png(tmp_path, npz=tiny)


@pytest.mark.slow
def test_seventy_thousand_files(tmp_path):
    folder = mnist_png(tmp_path, progress=False)
    counts = {split: [len(os.listdir(folder/split/str(digit))) for digit in range(10)] for split in ('training', 'testing')}
    assert counts == {'training': [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
                      'testing': [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]}
    assert (folder/'training'/'5'/'0.png').exists() and (folder/'training'/'0'/'1.png').exists() # the first two labels of MNIST
    (tmp_path/'mnist_png.checked').unlink()
    assert mnist_png(tmp_path, progress=False) == folder
    x, y, names = load_folder(folder/'testing')
    assert names == [*'0123456789'] and y.bincount().tolist() == counts['testing']
    assert_close(x.view(-1, 28, 28), torch.cat([load_digit(digit, 'test') for digit in range(10)]), rtol=0, atol=0)


@pytest.mark.parametrize('give_up', [.2, 60])
def test_who_waits_for_a_lock_is_told_and_not_for_ever(tiny, tmp_path, monkeypatch, capfd, give_up):
    monkeypatch.setattr(storage, '_TELL', .1)
    monkeypatch.setattr(storage, '_GIVE_UP', give_up)
    with FileLock(tmp_path/'mnist_sample.lock') as lock:
        if give_up < 1:
            with pytest.raises(ValueError, match='another program has held .*mnist_sample.lock for .* minutes; wait for it or end it'):
                mnist_sample(tmp_path, progress=False, npz=tiny)
            assert not (tmp_path/'mnist_sample').exists()
        else:
            thread = threading.Thread(target=mnist_sample, args=(tmp_path, False, tiny))
            thread.start()
            time.sleep(.5)
    if give_up > 1: thread.join()
    assert f"waiting for {tmp_path/'mnist_sample.lock'}, which another program holds" in capfd.readouterr().err
    assert mnist_sample(tmp_path, progress=False, npz=tiny)


def test_nothing_is_said_where_nothing_can_be_said(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, '_TELL', .1)
    monkeypatch.setattr(sys, 'stderr', None)
    with FileLock(tmp_path/'mnist_sample.lock'):
        thread = threading.Thread(target=mnist_sample, args=(tmp_path, False, tiny))
        thread.start()
        time.sleep(.4)
    thread.join()
    assert (tmp_path/'mnist_sample').is_dir()


def test_unwritable_cache(tmp_path):
    file = tmp_path/'file'
    file.write_text('', encoding='utf-8')
    with pytest.raises(ValueError, match='cannot write mnist_sample into .*cache_dir.*MNIST_SGD_CACHE'):
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
    said = {line for line in capfd.readouterr().err.splitlines() if not line.startswith('waiting for')} # as a slow machine does
    assert [process.exitcode for process in many] == [0]*8 and not said
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


def test_two_threads_that_write_in_one_folder_do_not_mix(tmp_path):
    both = threading.Barrier(2)
    def write(name):
        def slowly(file):
            for _ in range(50):
                file.write(name.encode()*1000)
                file.flush()
                if file.tell() == 25_000: both.wait(10)
        write_file(tmp_path/name, slowly)
    threads = [threading.Thread(target=write, args=(name,)) for name in 'ab']
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()} == {name: name.encode()*50_000 for name in 'ab'}


def test_two_processes_with_the_same_number_do_not_mix(tmp_path, monkeypatch):
    "As two containers do that share a folder."
    monkeypatch.setattr(os, 'getpid', lambda: 1)
    write_file(tmp_path/'a', lambda f: (f.write(b'a'), write_file(tmp_path/'b', lambda f: f.write(b'b'))))
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()} == {'a': b'a', 'b': b'b'}


@needs_links
def test_a_link_in_the_place_of_what_is_written_is_not_followed(tmp_path):
    (tmp_path/'mine').write_bytes(b'mine')
    (tmp_path/'folder').mkdir()
    (tmp_path/'folder'/f'mnist_sgd.{os.getpid()}.partial').symlink_to(tmp_path/'mine')
    write_file(tmp_path/'folder'/'a', lambda f: f.write(b'new'))
    assert (tmp_path/'mine').read_bytes() == b'mine' and (tmp_path/'folder'/'a').read_bytes() == b'new'


@pytest.mark.skipif(WINDOWS, reason='Windows has other permissions')
@pytest.mark.parametrize('mode', [0o600, 0o640, 0o755, 0o444])
def test_a_file_that_is_written_again_keeps_its_permissions(tmp_path, mode):
    write_file(tmp_path/'a', lambda f: f.write(b'old'))
    (tmp_path/'a').chmod(mode)
    write_file(tmp_path/'a', lambda f: f.write(b'new'))
    assert stat.S_IMODE((tmp_path/'a').stat().st_mode) == mode and (tmp_path/'a').read_bytes() == b'new'


@pytest.mark.skipif(WINDOWS, reason='Windows has other permissions')
@pytest.mark.parametrize('umask', [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_file(tmp_path/'a', lambda f: f.write(b'new'))
        (tmp_path/'b').write_bytes(b'new')
    finally: os.umask(before)
    assert (tmp_path/'a').stat().st_mode == (tmp_path/'b').stat().st_mode


@pytest.mark.skipif(WINDOWS or os.getuid() != 0, reason='only root may give a file to somebody else')
def test_a_file_that_is_written_again_keeps_its_owner(tmp_path):
    (tmp_path/'a').write_bytes(b'old')
    os.chown(tmp_path/'a', 1234, 2345)
    write_file(tmp_path/'a', lambda f: f.write(b'new'))
    assert ((tmp_path/'a').stat().st_uid, (tmp_path/'a').stat().st_gid) == (1234, 2345)


@pytest.mark.parametrize('after', [1, 2, 3])
def test_a_file_that_vanishes_when_it_was_looked_at_is_written_all_the_same(tmp_path, monkeypatch, after):
    "As another program may rename it."
    (tmp_path/'a').write_bytes(b'old')
    looks = []
    for name in ('stat', 'lstat'):
        def look(path, *args, see=getattr(os, name), **kwargs):
            seen = see(path, *args, **kwargs)
            if str(path) == str(tmp_path/'a'):
                looks.append(name)
                if len(looks) == after: os.unlink(path)
            return seen
        monkeypatch.setattr(os, name, look)
    write_file(tmp_path/'a', lambda f: f.write(b'new'))
    monkeypatch.undo()
    assert (tmp_path/'a').read_bytes() == b'new'


HANG = "import sys, time; from mnist_sgd.storage import write_file; write_file(sys.argv[1], lambda f: (f.write(b'ha'), f.flush(), print('half', flush=True), time.sleep(60)))"


def test_what_a_killed_writer_leaves_is_thrown_away_later_and_that_of_a_living_one_stays(tmp_path):
    many = [subprocess.Popen([sys.executable, '-c', HANG, str(tmp_path/'a')], stdout=subprocess.PIPE) for _ in range(2)]
    for process in many: assert process.stdout.readline() == b'half\n'
    many[0].kill()
    many[0].wait()
    killed, alive = sorted(tmp_path.glob('*.partial'), key=lambda o: o.stat().st_mtime)
    for o in (killed, *killed.iterdir()): os.utime(o, (1e9, 1e9)) # whichever of the two it is
    os.utime(alive, (1e9, 1e9)) # made long ago, but its file still grows
    (tmp_path/'mnist_sgd.123.partial').write_bytes(b'left by version 0.1')
    os.utime(tmp_path/'mnist_sgd.123.partial', (1e9, 1e9))
    write_file(tmp_path/'b', lambda f: f.write(b'new'))
    assert sorted(o.name for o in tmp_path.iterdir()) == sorted(['b', alive.name])
    many[1].kill()
    many[1].wait()


@pytest.mark.parametrize('name', ['a'*300, 'b\0', 'absent/c'])
def test_a_name_that_cannot_be_is_refused_in_one_sentence(tmp_path, name):
    with pytest.raises(ValueError, match='cannot write|null'): write_file(tmp_path/name, lambda f: f.write(b'new'))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path):
    "Two classes of own images, with what a system leaves beside them."
    for name in ('b', 'a'):
        (tmp_path/name).mkdir()
        for i in (10, 9): Image.fromarray(np.full((28, 28), i*25 + ord(name) - 97, np.uint8)).save(tmp_path/name/f'{i}.png')
        (tmp_path/name/'.DS_Store').write_bytes(b'?')
    (tmp_path/'notes.txt').write_text('mine', encoding='utf-8')
    (tmp_path/'.ipynb_checkpoints').mkdir()
    return tmp_path


def test_a_folder_of_own_images(folder):
    x, y, names = load_folder(str(folder))
    assert names == ['a', 'b'] and (x.dtype, x.shape, y.dtype) == (torch.float32, (4, 784), torch.int64)
    assert y.tolist() == [0, 0, 1, 1]
    assert_close(x[:, 0], torch.tensor([250, 225, 251, 226])/255, rtol=0, atol=0) # sorted as text: 10 before 9
    assert_close(x, x[:, :1].expand(-1, 784))


def test_colours_become_greys(folder):
    red = Image.new('RGB', (28, 28), (255, 0, 0))
    for image, name in ((red, 'c.png'), (red.convert('RGBA'), 'd.png'), (red.convert('P'), 'e.gif'), (red, 'f.jpg'), (Image.new('1', (28, 28), 1), 'g.png')):
        image.save(folder/'a'/name)
    x, y, _ = load_folder(folder)
    assert y.tolist() == [0]*7 + [1]*2
    assert_close(x[2:6, 0], torch.full((4,), 76/255), rtol=0, atol=2/255)
    assert x[6].eq(1).all()


@pytest.mark.parametrize('image, message', [
    (Image.new('L', (32, 32)), 'has 32 x 32 pixels; it needs 28 x 28'), (Image.new('L', (28, 29)), 'has 28 x 29 pixels'),
    (Image.new('I;16', (28, 28)), 'has more than 8 bits for a grey'), (Image.new('RGBA', (28, 28)), 'is transparent in places; give it a background'),
    (Image.new('LA', (28, 28), (9, 254)), 'is transparent in places'), (b'', 'cannot be read as an image; save it again'),
    (b'\x89PNG\r\n\x1a\nrest', 'cannot be read as an image'), ('cut', 'cannot be read as an image'), ('folder', r'is not an image \(Is a directory')])
def test_what_is_no_such_image_is_named(folder, image, message):
    file = folder/'b'/'odd.png'
    if image == 'folder': file.mkdir()
    elif image == 'cut':
        load = (folder/'b'/'10.png').read_bytes()
        file.write_bytes(load[:len(load) - 30])
    elif isinstance(image, bytes): file.write_bytes(image)
    else: image.save(file)
    with pytest.raises(ValueError, match=f'odd.png {message}'): load_folder(folder)


def test_a_folder_without_images_is_named(folder, tmp_path_factory):
    (folder/'c').mkdir()
    with pytest.raises(ValueError, match='c holds no image'): load_folder(folder)
    with pytest.raises(ValueError, match='has no sub-folder; it needs one for each class'): load_folder(tmp_path_factory.mktemp('empty'))
    for path in ('absent', folder/'notes.txt'):
        with pytest.raises(ValueError, match='cannot read the folder .*; name one with a folder for each class'): load_folder(path)


def test_models_may_lie_beside_the_images(tiny, tmp_path):
    (tmp_path/'models').mkdir()
    assert mnist_sample(tmp_path, progress=False, npz=tiny).is_dir()


def zipped(path, files):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items(): archive.writestr(name, content)
    return path


def png(grey):
    content = io.BytesIO()
    Image.new('L', (28, 28), grey).save(content, 'png')
    return content.getvalue()


def test_a_zip_of_folders_is_read_like_the_folder(tmp_path):
    path = zipped(tmp_path/'my.zip', {'7/0.png': png(51), '3/10.png': png(255), '3/0.png': png(0), '__MACOSX/3/._0.png': b'', '.DS_Store': b'', '3/.hidden': b''})
    for found in (load_folder(path), load_folder(str(path))):
        x, y, names = found
        assert names == ['3', '7'] and y.tolist() == [0, 0, 1]
        assert_close(x, torch.tensor([[0.], [1.], [.2]]).expand(3, 784))
    with zipfile.ZipFile(path) as archive: archive.extractall(tmp_path/'folder')
    shutil.rmtree(tmp_path/'folder'/'__MACOSX')
    assert_close(load_folder(tmp_path/'folder')[0], x)


@pytest.mark.parametrize('files, message', [
    ({}, 'has no sub-folder'), ({'0.png': png(0)}, 'has no sub-folder'), ({'3/': b'', '7/0.png': png(0)}, '3 holds no image'),
    ({'mine/3/0.png': png(0)}, r'mine/3/ is not an image \(it is a folder\)'), ({'3/0.txt': b'three'}, '3/0.txt cannot be read as an image')])
def test_refuses_a_zip_of_other_things(files, message, tmp_path):
    with pytest.raises(ValueError, match=f'my.zip.*{message}|{message}'): load_folder(zipped(tmp_path/'my.zip', files))


def test_refuses_a_damaged_zip(tmp_path):
    whole = zipped(tmp_path/'whole.zip', {'3/0.png': png(0)}).read_bytes()
    for content in (whole[:-30], b'PK\x05\x06' + b'\xff'*18, whole[:50] + bytes(20) + whole[70:]):
        (tmp_path/'bad.zip').write_bytes(content)
        with pytest.raises(ValueError, match='bad.zip') as told: load_folder(tmp_path/'bad.zip')
        assert '\n' not in str(told.value)



def test_a_folder_that_is_named_comes_before_that_of_fastai(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'fastai'))
    mnist_sample(tmp_path/'fastai'/'data', progress=False, npz=tiny)
    monkeypatch.delenv('MNIST_SGD_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'own'))
    assert mnist_sample(npz=tiny) == tmp_path/'fastai'/'data'/'mnist_sample'
    assert mnist_sample(tmp_path/'mine', progress=False, npz=tiny) == tmp_path/'mine'/'mnist_sample'
    monkeypatch.setenv('MNIST_SGD_CACHE', str(tmp_path/'named'))
    assert mnist_sample(progress=False, npz=tiny) == tmp_path/'named'/'mnist_sample'
    assert mnist_sample(tmp_path/'mine', npz=tiny) == tmp_path/'mine'/'mnist_sample' # the argument comes first


def test_the_folder_of_fastai_is_looked_through_once(tiny, tmp_path, monkeypatch):
    "Also where nothing of ours has been written before."
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'fastai'))
    mnist_sample(tmp_path/'fastai'/'data', progress=False, npz=tiny)
    monkeypatch.delenv('MNIST_SGD_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'own'))
    assert mnist_sample(npz=tiny) == tmp_path/'fastai'/'data'/'mnist_sample'
    monkeypatch.setattr(storage, '_look_through', lambda *args: pytest.fail('looked through again'))
    assert mnist_sample(npz=tiny) == tmp_path/'fastai'/'data'/'mnist_sample'


def test_who_has_waited_for_the_lock_finds_the_folder_and_writes_nothing(tiny, tmp_path, monkeypatch):
    @contextmanager
    def locked(path):
        mnist_sample(tmp_path/'other', progress=False, npz=tiny).rename(path.parent/'mnist_sample') # what another program did meanwhile
        monkeypatch.setattr(storage, '_write_files', lambda *args: pytest.fail('written again'))
        yield
    real = storage._locked
    monkeypatch.setattr(storage, '_locked', lambda path: locked(path) if path.parent.name == 'cache' else real(path))
    assert mnist_sample(tmp_path/'cache', progress=False, npz=tiny) == tmp_path/'cache'/'mnist_sample'


def test_a_label_above_nine_is_a_damaged_file(tiny, tmp_path):
    with np.load(tiny) as packed: arrays = dict(packed)
    labels = arrays['valid_labels'].copy()
    labels[0] = 10
    np.savez(tmp_path/'a.npz', **arrays | {'valid_labels': labels})
    with pytest.raises(ValueError, match='valid_labels holds 10, which is no digit'): load_arrays('valid', tmp_path/'a.npz')


def test_a_percent_sign_in_the_config_of_fastai_is_one(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    monkeypatch.delenv('MNIST_SGD_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'own'))
    (tmp_path/'config.ini').write_text('[DEFAULT]\ndata = 100%\n', encoding='utf-8')
    mnist_sample(tmp_path/'100%', progress=False, npz=tiny)
    assert mnist_sample(npz=tiny) == tmp_path/'100%'/'mnist_sample'


@pytest.mark.skipif(WINDOWS, reason='Windows finds the home folder otherwise')
def test_the_cache_is_in_the_home_folder_unless_named(tiny, tmp_path, monkeypatch):
    for name in ('FASTAI_HOME', 'XDG_CACHE_HOME', 'MNIST_SGD_CACHE'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert mnist_sample(progress=False, npz=tiny) == tmp_path/'.cache'/'mnist_sgd'/'mnist_sample'
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'named'))
    assert mnist_sample(progress=False, npz=tiny) == tmp_path/'named'/'mnist_sgd'/'mnist_sample'


def test_waiting_takes_ten_minutes_in_all(tmp_path, monkeypatch, capsys):
    waited = []
    class Held:
        def __init__(self, path): pass
        def acquire(self, timeout):
            waited.append(timeout)
            raise storage.Timeout('held')
    monkeypatch.setattr(storage, 'FileLock', Held)
    with pytest.raises(ValueError, match='for 10 minutes'): storage._locked(tmp_path/'lock')
    assert waited == [5, 595]


def test_what_a_killed_run_has_left_of_a_folder_is_thrown_away(tiny, tmp_path):
    (tmp_path/'mnist_sample.partial'/'train').mkdir(parents=True)
    folder = mnist_sample(tmp_path, progress=False, npz=tiny)
    assert folder.is_dir() and not (tmp_path/'mnist_sample.partial').exists()


def test_a_partial_file_is_kept_for_ten_minutes(tmp_path):
    old, new = tmp_path/'mnist_sgd.1.partial', tmp_path/'mnist_sgd.2.partial'
    for folder, age in ((old, 700), (new, 500)):
        folder.mkdir()
        (folder/'partial').write_bytes(b'half')
        for o in (folder, folder/'partial'): os.utime(o, (time.time() - age,)*2)
    storage._clear(tmp_path)
    assert not old.exists() and new.exists()
    os.utime(new, (1e9, 1e9)) # the folder is old, but its file still grows
    storage._clear(tmp_path)
    assert new.exists()


def test_labels_of_the_sample_say_1_for_a_seven():
    table = storage._table({('train', 3): ['train/3/1.png'], ('train', 7): ['train/7/2.png'], ('valid', 7): ['valid/7/0.png']})
    assert table == b'name,label\ntrain/3/1.png,0\ntrain/7/2.png,1\nvalid/7/0.png,1\n'
