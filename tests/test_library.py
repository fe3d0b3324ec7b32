"What holds for the package as a whole: what an import costs, and which way imports point."
import ast, subprocess, sys
from itertools import combinations
from importlib.metadata import version
from importlib.resources import files

import numpy as np
import pytest

import mnist_sgd

BELOW = 'checks', 'storage', 'replay' # all steps may import these
WALK = [*BELOW, 'data', 'pixel_similarity', 'manual_sgd', 'linear_model', 'basic_optim', 'fastai_learner', 'neural_net', 'learner_from_scratch', 'all_digits', 'speed', 'many_workers', 'run', 'misprints', 'practice']


def loaded_after(statement):
    code = f'import sys; {statement}; print(*sys.modules)'
    return set(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.split())


def test_import_of_the_package_loads_nothing():
    assert not loaded_after('import mnist_sgd') & {'torch', 'numpy', 'fastai', 'pandas', 'matplotlib'}


def test_steps_before_fastai_do_without_it():
    "One process imports them in their order, so that the first that needs too much is named."
    code = '; '.join(f"import mnist_sgd.{module}; print('{module}', *sys.modules)" for module in WALK[:8])
    lines = subprocess.run([sys.executable, '-c', f'import sys; {code}'], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == WALK[:8]
    for line in lines: assert not set(line.split()) & {'fastai', 'fastcore', 'pandas', 'matplotlib'}, line.split()[0]


@pytest.mark.parametrize('module', ['run', 'practice'])
def test_commands_import_nothing_heavy_for_their_help(module):
    assert not loaded_after(f'import mnist_sgd.{module}') & {'torch', 'numpy', 'fastai', 'matplotlib'}


@pytest.mark.parametrize('module', WALK)
def test_imports_point_one_way(module):
    tree = ast.parse((files('mnist_sgd')/f'{module}.py').read_text(encoding='utf-8'))
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
