"""What is installed and published. The slow tests build the package without a network, with the setuptools and build that
`.[dev]` brings, and install its wheel into an environment without fastai."""
import ast, json, os, re, runpy, shutil, subprocess, sys, tarfile, zipfile
from email.parser import Parser
from pathlib import Path
from venv import EnvBuilder

import pytest
from packaging.requirements import Requirement

import mnist_sgd

ROOT = Path(__file__).parents[1]
if not (ROOT/'setup.py').exists(): pytest.skip('not in the repository or its sdist', allow_module_level=True)
SETUP = runpy.run_path(str(ROOT/'setup.py'), run_name='setup')
CFG = SETUP['cfg']


def requirements(*names): return [Requirement(text) for name in names for text in SETUP['extras']().get(name) or CFG[name].split()]


def pins(): # {name: versions}
    lines = (ROOT/'constraints.txt').read_text(encoding='utf-8').splitlines()
    found = [re.match(r'([\w-]+)==([\w.]+)', line) for line in lines if not line.startswith('#')]
    return {name: [m[2] for m in found if m[1].lower() == name] for name in {m[1].lower() for m in found}}


def test_links_of_the_front_page_lead_somewhere_from_pypi_too():
    links = SETUP['absolute_links']
    text = "![a 3](nbs/images/a.png) [b](nbs/b.ipynb), [`c`](#c) and [d](https://d.org)\n"
    assert links(text, '', 'main') == text # no address is set
    assert links(text, 'https://git/me', 'main') == ("![a 3](https://git/me/raw/main/nbs/images/a.png) "
        "[b](https://git/me/blob/main/nbs/b.ipynb), [`c`](#c) and [d](https://d.org)\n")
    page = (ROOT/'README.md').read_text(encoding='utf-8')
    absolute = links(page, 'https://git/me', 'main')
    assert not re.search(r'\]\((?!https:|#)', absolute) and absolute.count('https://git/me/raw/main/nbs/images/') == page.count('![')
    code = re.compile('```.*?```', re.DOTALL)
    assert code.findall(absolute) == code.findall(page)
    for path in re.findall(r'https://git/me/\w+/main/([^)]+)', absolute): assert (ROOT/path).exists()


def test_addresses_appear_where_they_are_set(monkeypatch):
    assert SETUP['urls']() == {name: url for name, url in SETUP['urls']().items() if url}
    monkeypatch.setitem(CFG, 'git_url', 'https://git/me/')
    assert SETUP['urls']()['Source'] == 'https://git/me' and SETUP['urls']()['Changelog'] == 'https://git/me/blob/main/CHANGELOG.md'


def test_a_notebook_loses_its_outputs_and_nothing_else():
    notebook = json.loads((ROOT/'nbs'/'01_pixel_similarity.ipynb').read_text(encoding='utf-8'))
    bare = json.loads(SETUP['without_outputs'](json.dumps(notebook)))
    assert any(cell.get('outputs') for cell in notebook['cells']) and not any(cell.get('outputs') for cell in bare['cells'])
    for cell in notebook['cells']: cell.get('outputs', []).clear()
    assert bare == notebook


def test_every_requirement_has_a_lower_bound_that_the_tested_set_meets():
    pinned = pins()
    for requirement in requirements('requirements', 'fastai', 'notebooks', 'test', 'dev'):
        bounds = {spec.operator for spec in requirement.specifier}
        assert bounds & {'>=', '=='} or requirement.name in ('fastcore', 'execnb'), requirement # nbdev's own bounds
        assert pinned[requirement.name] and all(requirement.specifier.contains(v) for v in pinned[requirement.name]), requirement
    assert all(requirement.specifier for requirement in requirements('speed'))


def test_modules_import_what_is_required_and_no_more():
    roots = set()
    for path in (ROOT/'mnist_sgd').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import): roots |= {alias.name.partition('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level: roots.add(node.module.partition('.')[0])
    needed = {{'PIL': 'pillow'}.get(root, root) for root in roots - sys.stdlib_module_names - {'mnist_sgd'}}
    light = {requirement.name for requirement in requirements('requirements')}
    # cycler comes with matplotlib; with the notebooks come IPython, where a moving picture is shown and practice copies are
    # answered, and pandas, which the cells of the notes import
    assert light <= needed <= light | {'fastai', 'numba', 'cycler', 'IPython', 'pandas'}


def test_python_versions_are_those_that_are_tested():
    workflow = (ROOT/'.github'/'workflows'/'test.yml').read_text(encoding='utf-8')
    pythons = CFG['pythons'].split()
    assert pythons == sorted(set(re.findall(r"python: '(3\.\d+)'", workflow)), key=lambda v: int(v[2:]))
    assert pythons[0] == CFG['min_python']


def test_the_change_log_tells_of_this_version():
    text = (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    this = text.partition(f'\n## {mnist_sgd.__version__}')[2].partition('\n## ')[0]
    assert re.search(r'^## (.+)', text, re.MULTILINE)[1].startswith(CFG['version'])
    for old, new in mnist_sgd._MOVED.items(): assert f'`{old}`' in this and f'`{new}`' in this


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, encoding='utf-8', **options)
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "A folder with the sdist, and the wheel that is made of it."
    folder = tmp_path_factory.mktemp('dist')
    made = '.*', 'build', 'dist', '*.egg-info', '__pycache__', 'my_practice', '_docs', '_proc', '_site'
    def ignore(path, names): return shutil.ignore_patterns(*made)(path, names) - {'.github'}
    shutil.copytree(ROOT, folder/'source', ignore=ignore)
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, folder/'source')
    return folder


@pytest.fixture(scope='module')
def wheel(dist): return next(dist.glob('*.whl'))


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    "An environment with the wheel and all that is installed here, but as if fastai were not."
    folder = tmp_path_factory.mktemp('venv')
    EnvBuilder().create(folder)
    python = folder/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index', wheel)
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip())
    (site/'others.pth').write_text('\n'.join(path for path in sys.path if path.endswith('site-packages')))
    (site/'sitecustomize.py').write_text('import sys\nsys.modules["fastai"] = None\n')
    return python


@pytest.fixture
def elsewhere(monkeypatch, tmp_path): # so that the repository is not found by accident
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('PYTHONPATH', raising=False)


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        info = next(name for name in names if name.endswith('/METADATA'))
        metadata = Parser().parsestr(files.read(info).decode())
        notebooks = {name: json.loads(files.read(name)) for name in names if name.endswith('.ipynb')}
    assert {f'mnist_sgd/{name}' for name in ('__init__.py', '__init__.pyi', 'py.typed', 'figures.mplstyle', 'mnist.npz')} <= names
    assert metadata['License-Expression'] == 'Apache-2.0 AND CC-BY-SA-3.0'
    assert metadata.get_all('License-File') == ['LICENSE', 'LICENSE-DATA']
    assert {f"{Path(info).parent.as_posix()}/licenses/{name}" for name in ('LICENSE', 'LICENSE-DATA')} <= names
    assert metadata['Version'] == mnist_sgd.__version__ and metadata['Requires-Python'] == '>=3.11'
    assert {'Typing :: Typed', 'Intended Audience :: Education', 'Programming Language :: Python :: 3.11'} <= set(metadata.get_all('Classifier'))
    assert set(metadata.get_all('Provides-Extra')) == {'fastai', 'notebooks', 'speed', 'test', 'dev'}
    assert {Path(name).name for name in notebooks} == {path.name for path in (ROOT/'nbs').glob('[0-8]*.ipynb')}
    assert not any(cell.get('outputs') for notebook in notebooks.values() for cell in notebook['cells'])


@pytest.mark.slow
def test_the_sdist_is_complete_and_its_tests_pass(dist, elsewhere, tmp_path):
    with tarfile.open(next(dist.glob('*.tar.gz'))) as files: files.extractall(tmp_path, filter='data')
    folder, = tmp_path.iterdir()
    if (ROOT/'.git').exists():
        tracked = run('git', 'ls-files', cwd=ROOT).splitlines()
        assert [name for name in tracked if not (folder/name).exists()] == ['.ci/run', '.gitignore']
    assert not [path for path in folder.rglob('*') if '__pycache__' in path.parts]
    quick = [f'tests/test_{name}.py' for name in ('manual_sgd', 'pixel_similarity', 'basic_optim', 'packaging')]
    out = run(sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *quick, cwd=folder, env=os.environ | {'PYTHONPATH': str(folder)})
    assert ' passed' in out


@pytest.mark.slow
def test_the_wheel_works_without_fastai(python, elsewhere):
    out = run(python, '-c', 'import mnist_sgd, sys; print(mnist_sgd.__file__, len(sys.modules)); from mnist_sgd import load_pair, train_model')
    assert str(python.parent.parent) in out
    for command in 'mnist_sgd_run', 'mnist_sgd_practice': assert command in run(python.with_name(command), '--help')
    error = subprocess.run([python, '-c', 'from mnist_sgd import make_learner'], capture_output=True, text=True).stderr
    assert error.splitlines()[-1] == "ImportError: make_learner needs fastai: pip install 'mnist_sgd[fastai]'"
    assert 'train_model' in run(python, '-c', 'import mnist_sgd; help(mnist_sgd)')


def front_page():
    "What the front page shows as Python, as one script."
    return '\n'.join(re.findall('```python\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), re.DOTALL))


@pytest.mark.slow
def test_the_front_pages_example_is_a_script_and_prints_what_stands_there(python, elsewhere):
    section = (ROOT/'README.md').read_text(encoding='utf-8').partition('## In a script')[2].partition('\n### ')[0]
    outputs = re.sub('```.*?```', '', section, flags=re.DOTALL)
    there = ' '.join(line.strip() for line in outputs.splitlines() if line.startswith('    '))
    printed = ' '.join(run(python, '-W', 'error', '-c', front_page()).split())
    number = r'\d+\.\d+'
    assert re.sub(number, '0.0', printed) == re.sub(number, '0.0', there) and 'this one is a 7' in printed
    assert [*map(float, re.findall(number, printed))] == pytest.approx([*map(float, re.findall(number, there))], abs=.01)


SCRIPTS = {
    'loading': '''
from torch import Tensor
from mnist_sgd import label_pair, load_all, load_digit, load_pair
fives: Tensor = load_digit(5)
fours, nines = load_pair(4, 9, split='valid')
x, y = label_pair(fours, nines)
images, labels = load_all('valid')
print(fives.shape, x.shape, y.float().mean(), images[labels == 3].mean(0))
''',
    'cnn': '''
import torch
from torch import Tensor, nn
from mnist_sgd import cross_entropy, digit_loaders, load_all, mnist_loss, train_model, BatchLoader, label_pair, load_pair
class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, stride=2), nn.Linear(8*13*13, 1)
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.view(-1, 1, 28, 28)).relu().flatten(1))
model = CNN()
dl = BatchLoader(*label_pair(*load_pair(4, 9)), shuffle=True)
valid_dl = BatchLoader(*label_pair(*load_pair(4, 9, split='valid')))
opt = torch.optim.SGD(model.parameters(), lr=.1, momentum=.9)
history = train_model(model, dl, valid_dl, opt, epochs=2, device='cpu')
best: float = max(history['accuracy'])
def loss(predictions: Tensor, targets: Tensor) -> Tensor: return mnist_loss(predictions, targets)*2
history = train_model(model, dl, valid_dl, opt, 1, loss_func=loss)
''',
    'learner': '''
import torch
from torch import nn
from mnist_sgd import EarlyStop, Learner, LRFinder, Metrics, Recorder, cross_entropy, digit_accuracy, digit_loaders
class Count:
    "A callback of one's own."
    batches = 0
    def after_batch(self, learn: Learner) -> None: self.batches += 1
count = Count()
learn = Learner(digit_loaders(), nn.Linear(784, 10), cross_entropy, torch.optim.Adam, [Metrics(digit_accuracy), count, Recorder()])
history = learn.fit(1, lr=.01)
print(history['digit_accuracy'][-1] + 1, count.batches)
''',
    'predicting': '''
from pathlib import Path
import torch
from mnist_sgd import load_digit, load_model, make_net, save_model, scores
path = Path('net.safetensors')
save_model(make_net(28*28, 30, 10), path, epochs=0)
model, made_by = load_model(path, make_net(28*28, 30, 10))
with torch.no_grad(): predicted = model(load_digit(5).view(-1, 28*28)).argmax(1)
digits: list[int] = scores(model, load_digit(5)).argmax(1).tolist()
print(digits == predicted.tolist(), made_by['epochs'])
''',
    'wrong': '''
from mnist_sgd import load_pair, train_model
load_pair('4') # type: ignore[arg-type]
load_pair(4).sum() # type: ignore[attr-defined]
train_model() # type: ignore[call-arg]
'''} # an error that mypy no longer sees makes its comment an error


MYPY = """[mypy]
check_untyped_defs = True
scripts_are_modules = True
warn_unused_ignores = True
[mypy-torch._dynamo.*,torch._inductor.*,torch.fx.*,torch.distributed.*,torch.export.*,torch.onnx.*,sympy.*,matplotlib.*,fastai.*]
follow_imports = skip
""" # what is skipped takes twice as long as all the rest


@pytest.mark.slow
def test_mypy_passes_on_scripts_of_each_kind(python, elsewhere):
    "It sees the package as it is installed, with py.typed."
    Path('mypy.ini').write_text(MYPY)
    for name, script in {**SCRIPTS, 'readme': front_page()}.items(): Path(f'{name}_script.py').write_text(script, encoding='utf-8')
    out = run(sys.executable, '-m', 'mypy', '--python-executable', python, *Path().glob('*_script.py'))
    assert out.startswith('Success: no issues found in 6')
