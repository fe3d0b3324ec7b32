"What holds for the package as a whole: what an import costs, and which way imports point."
import ast, json, re, subprocess, sys
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from inspect import signature
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import mnist_sgd

BELOW = 'checks', 'storage', 'replay' # all steps may import these
WALK = [*BELOW, 'data', 'pixel_similarity', 'manual_sgd', 'linear_model', 'basic_optim', 'fastai_learner', 'neural_net', 'learner_from_scratch', 'all_digits', 'speed', 'many_workers', 'own_handwriting', 'run', 'misprints', 'practice']


def loaded_after(statement):
    code = f'import sys; {statement}; print(*sys.modules)'
    return set(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.split())


def test_import_of_the_package_loads_nothing():
    assert not loaded_after('import mnist_sgd') & {'torch', 'numpy', 'fastai', 'pandas', 'matplotlib'}


def test_steps_before_fastai_do_without_it():
    "One process imports them in their order, so that the first that needs too much is named."
    code = '; '.join(f"import mnist_sgd.{module}; print('{module}', *sys.modules)" for module in WALK[:8])
    code += "; from mnist_sgd import load_pair, train_model; print('names', *sys.modules)"
    lines = subprocess.run([sys.executable, '-c', f'import sys; {code}'], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*WALK[:8], 'names']
    for line in lines: assert not set(line.split()) & {'fastai', 'fastcore', 'pandas', 'matplotlib', 'mnist_sgd.run'}, line.split()[0]


def modules_all(module):
    "What the generated module itself offers, found without importing it."
    tree = ast.parse((files('mnist_sgd')/f'{module}.py').read_text(encoding='utf-8'))
    return next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == '__all__')


def test_the_package_offers_what_its_modules_offer():
    "Two modules have a `train_epoch`, as the notes do; the package offers the one with an optimiser."
    offered = [(name, module) for module in WALK for name in modules_all(module) if (name, module) != ('train_epoch', 'linear_model')]
    assert sorted(mnist_sgd._names().items()) == sorted(offered)
    assert len(offered) == len(dict(offered)) # no name means two things
    assert not {'main', *WALK} & dict(offered).keys()


def test_the_stub_gives_every_name_to_type_checkers():
    "In a stub only `name as name` is passed on."
    tree = ast.parse((files('mnist_sgd')/'__init__.pyi').read_text(encoding='utf-8'))
    for node in tree.body[1:]: assert isinstance(node, ast.ImportFrom) and node.level == 1 and all(a.asname == a.name for a in node.names)


@pytest.mark.slow # loads fastai
def test_names_of_the_package_are_those_of_the_modules():
    for name, module in mnist_sgd._names().items():
        assert getattr(mnist_sgd, name) is getattr(import_module(f'mnist_sgd.{module}'), name)
    assert {'load_pair', 'train_model', '__version__'} <= set(dir(mnist_sgd))
    space = {}
    exec('from mnist_sgd import *', space)
    assert space.keys() - {'__builtins__'} == mnist_sgd._names().keys()


def test_an_unknown_name_is_an_error_as_usual():
    with pytest.raises(AttributeError, match="module 'mnist_sgd' has no attribute 'nix'"): mnist_sgd.nix
    with pytest.raises(ImportError, match="cannot import name 'nix'"): from mnist_sgd import nix
    assert not hasattr(mnist_sgd, 'main')
    from mnist_sgd import data # still a module
    assert data is sys.modules['mnist_sgd.data']


def test_a_name_that_moved_says_where_it_is():
    with pytest.raises(ImportError, match='^table is now climb_table$'): from mnist_sgd import table
    assert set(mnist_sgd._MOVED.values()) <= mnist_sgd._names().keys() and not mnist_sgd._MOVED.keys() & mnist_sgd._names().keys()


def test_a_name_that_needs_an_extra_says_which(monkeypatch):
    learners = [name for name, module in mnist_sgd._names().items() if module == 'fastai_learner']
    for name in learners: monkeypatch.delitem(vars(mnist_sgd), name, raising=False)
    monkeypatch.setitem(sys.modules, 'fastai', None) # as if it were not installed
    for name in learners:
        with pytest.raises(ImportError) as error: getattr(mnist_sgd, name)
        assert str(error.value) == f"{name} needs fastai: pip install 'mnist_sgd[fastai]'"
    assert 'make_learner' in learners and not {*learners} & {*dir(mnist_sgd)} # so help(mnist_sgd) and `import *` go on
    assert 'load_pair' in dir(mnist_sgd)


@pytest.mark.parametrize('module', ['run', 'practice'])
def test_commands_import_nothing_heavy_for_their_help(module):
    assert not loaded_after(f'import mnist_sgd.{module}') & {'torch', 'numpy', 'fastai', 'matplotlib'}


@pytest.mark.parametrize('module', WALK)
def test_imports_point_one_way(module):
    tree = ast.parse((files('mnist_sgd')/f'{module}.py').read_text(encoding='utf-8'))
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if __name__ == '__main__'")] # a command may call run
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    # nbdev writes those at the top of a module as `from .data`
    imported = {node.module.removeprefix('mnist_sgd.') for node in imports
                if node.level or node.module.startswith('mnist_sgd.')}
    assert imported or module in ('checks', 'storage') # these stand on their own
    assert imported <= set(WALK[:WALK.index(module)])


@pytest.mark.parametrize('module', WALK)
def test_public_functions_say_what_they_do(module):
    tree = ast.parse((files('mnist_sgd')/f'{module}.py').read_text(encoding='utf-8'))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            assert ast.get_docstring(node), f'{module}.{node.name} has no docstring'


def test_version_is_the_one_that_is_installed():
    assert mnist_sgd.__version__ == version('mnist_sgd')


SEEN_BY = { # what is left of linear red, green and blue (Machado, Oliveira and Fernandes 2009, the whole way)
    'all': np.eye(3),
    'protanopia': [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
    'deuteranopia': [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
    'tritanopia': [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]}
XYZ = np.array([[.412456, .357576, .180437], [.212673, .715152, .072175], [.019334, .119192, .950304]])


def lab(color, eyes):
    "A colour as L*, a*, b*, in which distances are about those that one sees."
    from matplotlib.colors import to_rgb
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= .04045, rgb/12.92, ((rgb + .055)/1.055)**2.4)
    t = XYZ@np.clip(eyes@linear, 0, 1)/XYZ.sum(1)
    x, y, z = np.where(t > (6/29)**3, np.cbrt(t), t/(3*(6/29)**2) + 4/29)
    return np.array([116*y - 16, 500*(x - y), 200*(y - z)])


@pytest.mark.parametrize('who', SEEN_BY)
def test_curves_of_a_figure_are_told_apart_by_all_eyes_and_without_colour(who):
    import matplotlib.pyplot as plt
    with plt.style.context('mnist_sgd.figures'): looks = list(plt.rcParams['axes.prop_cycle'])
    assert len(looks) >= 6 and len({str(look['linestyle']) for look in looks}) == len(looks)
    seen = [lab(look['color'], np.array(SEEN_BY[who])) for look in looks]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


PAGE = Path(__file__).parents[1]/'nbs'/'index.ipynb' # the front page


def beside_the_book():
    "The rows of the front page's two tables: [(name, module)] of what is called as in the book, and of the rest [(the book's call, ours, module)]."
    text = '\n'.join(''.join(cell['source']) for cell in json.loads(PAGE.read_text(encoding='utf-8'))['cells'])
    text = text.partition("### Beside the book's notebook")[2].partition('\n## ')[0]
    rows = [[re.findall('`(.+?)`', column) for column in line.strip('| ').split(' | ')] for line in text.splitlines() if line.startswith('| `')]
    return ([(name, module) for names, (module,) in (row for row in rows if len(row) == 2) for name in names],
            [(book, ours, module) for (book,), (ours,), (module,) in (row for row in rows if len(row) == 3)])


def test_what_is_called_as_in_the_book_can_be(valid):
    import torch
    from torch import nn, tensor
    space = {}
    for name, module in beside_the_book()[0]: space[name] = getattr(import_module(module), name)
    assert sorted(space) == sorted(['mnist_distance', 'f', 'mse', 'init_params', 'sigmoid', 'mnist_loss', 'calc_grad', 'batch_accuracy', 'BasicOptim'])
    mnist_distance, f, mse, init_params, sigmoid, mnist_loss, calc_grad, batch_accuracy, BasicOptim = space.values()
    threes, sevens = valid
    assert mnist_distance(threes, threes.mean(0)).shape == (1010,) and mnist_distance(threes[0], threes[0]) == 0
    time, speed = torch.arange(0, 20).float(), 3*torch.randn(20) + .75*(torch.arange(0, 20) - 9.5)**2 + 1
    params = torch.randn(3).requires_grad_()
    assert mse(f(time, params), speed).requires_grad
    weights, bias = init_params((28*28, 1)), init_params(1)
    def linear1(xb): return xb@weights + bias # the book's, which looks up its weights
    xb, yb = torch.cat([threes[:2], sevens[:2]]).view(-1, 28*28), tensor([1, 1, 0, 0]).unsqueeze(1)
    calc_grad(xb, yb, linear1)
    assert weights.grad.shape == (28*28, 1) and bias.grad.shape == (1,)
    preds = linear1(xb)
    assert 0 <= mnist_loss(preds, yb) <= 1 and 0 <= batch_accuracy(preds, yb) <= 1 and sigmoid(preds).shape == (4, 1)
    assert 0 <= mnist_loss(tensor([.9, .4, .2]), tensor([1, 0, 1])) <= 1
    model = nn.Linear(28*28, 1)
    opt, before = BasicOptim(model.parameters(), 1.), model.weight.clone()
    calc_grad(xb, yb, model)
    opt.step()
    opt.zero_grad()
    assert not torch.equal(model.weight, before) and model.weight.grad is None


def test_what_takes_more_than_in_the_book_is_called_as_the_front_page_says():
    rows = beside_the_book()[1]
    assert [book for book, _, _ in rows] == ['is_3(x)', 'apply_step(params, prn)', 'linear1(xb)', 'train_epoch(model, lr, params)',
                                             'validate_epoch(model)', 'train_model(model, epochs)']
    for book, ours, module in rows:
        name, _, told = ours.rstrip(')').partition('(')
        parameters = signature(getattr(import_module(module), name)).parameters
        told, needed = told.split(', '), [p.name for p in parameters.values() if p.default is p.empty]
        assert told == list(parameters)[:len(told)] and set(needed) <= set(told)
        assert book.startswith(f'{name}(') and len(needed) > book.count(',') + 1


def test_help_says_what_the_comments_beside_the_parameters_say():
    "Of every function and class that the package offers: each parameter of its signature has its line."
    for name in mnist_sgd.__all__:
        thing = getattr(mnist_sgd, name)
        if not callable(thing) or list(signature(thing).parameters) == [] or name in ('CheckLoss', 'Stopwatch'): continue
        lines = [line.strip().lstrip('*').partition(':')[0] for line in (thing.__doc__ or '').splitlines()]
        for parameter in set(signature(thing).parameters) - {'b1', 'b2'}: assert parameter in lines, f'help({name}) says nothing of {parameter}'
    told = mnist_sgd.train_model.__doc__
    assert "returns 'train_loss', 'valid_loss', 'accuracy'" in told and 'reset_opt: ' in mnist_sgd.Learner.fit.__doc__
