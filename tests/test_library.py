"What holds for the package as a whole: what an import costs, and which way imports point."
import ast, subprocess, sys
from importlib.metadata import version
from importlib.resources import files

import pytest

import mnist_sgd

BELOW = 'storage', 'replay' # all steps may import these
WALK = [*BELOW, 'data', 'pixel_similarity', 'manual_sgd', 'linear_model', 'basic_optim', 'fastai_learner', 'neural_net', 'learner_from_scratch', 'all_digits', 'speed', 'many_workers', 'run', 'misprints', 'practice']


def loaded_after(statement):
    code = f'import sys; {statement}; print(*sys.modules)'
    return set(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.split())


def test_import_of_the_package_loads_nothing():
    assert not loaded_after('import mnist_sgd') & {'torch', 'numpy', 'fastai', 'pandas', 'matplotlib'}


def test_steps_before_fastai_do_without_it():
    "One process imports them in their order, so that the first that needs too much is named."
    code = '; '.join(f"import mnist_sgd.{module}; print('{module}', *sys.modules)" for module in WALK[:7])
    lines = subprocess.run([sys.executable, '-c', f'import sys; {code}'], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == WALK[:7]
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
    if module in BELOW: assert not imported
    assert imported or module in (*BELOW, 'pixel_similarity', 'manual_sgd') # these stand on their own
    assert imported <= set(WALK[:WALK.index(module)])


@pytest.mark.parametrize('module', WALK)
def test_public_functions_say_what_they_do(module):
    tree = ast.parse((files('mnist_sgd')/f'{module}.py').read_text(encoding='utf-8'))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            assert ast.get_docstring(node), f'{module}.{node.name} has no docstring'


def test_version_is_the_one_that_is_installed():
    assert mnist_sgd.__version__ == version('mnist_sgd')
