"""`make mutants` judges rightly."""
import os, subprocess, sys
from pathlib import Path

import pytest

import mutants

ROOT = Path(__file__).parents[1]
SCRIPT = '''
import sys, tempfile
from pathlib import Path
sys.path.insert(0, 'tests')
import mutants as m

def change(old, new, module='pixel_similarity'):
    source = (m.ROOT/'mnist_sgd'/f'{module}.py').read_bytes()
    start = source.index(old.encode())
    return module, '', old, [source[:start].count(b'\\n') + 1], (start, start + len(old), new)

line, spinning = 'return (a - b).abs().mean((-1, -2))', 'while True: pass'
tried = {
    'wrong': change(line, 'return (a - b).mean((-1, -2))'), 'nothing': change(line, line), 'for ever': change(line, spinning),
    'the same': change(line, 'return (b - a).abs().mean((-1, -2))'), 'does not compile': change(line, 'return return'),
    'in a fixture only': change('self.shuffle, self.generator = shuffle, generator', 'pass', 'linear_model'),
    'files': change(line, "open('left', 'w').close(); open(__file__, 'a').close(); " + line)}
m.LEFT_OUT += tuple(path.name for path in (m.ROOT/'tests').glob('test_*.py') if path.name not in ('test_pixel_similarity.py', 'test_linear_model.py', 'test_two_machines.py')) # of the last none is left: all are slow
with tempfile.TemporaryDirectory() as folder:
    m.prepared(template := Path(folder).resolve())
    tests = m.Tests(template)
    assert not tests.failed
    seen = dict(m.judged([*tried.values()], tests, template))
assert 'mnist_sgd' not in sys.modules
print({name: seen[i] for i, name in enumerate(tried)})
'''


def test_what_is_called_harmless_is_a_mutant():
    assert {*mutants.HARMLESS} - {mutant[:3] for mutant in mutants.mutants()} == set()


@pytest.mark.slow
def test_what_a_test_must_notice_is_noticed_and_what_changes_nothing_is_not(tmp_path):
    if not hasattr(os, 'fork'): pytest.skip('Windows has no fork')
    before = sorted(ROOT.glob('*')), sorted((ROOT/'tests').glob('*')), [path.read_bytes() for path in (ROOT/'mnist_sgd').glob('*.py')]
    done = subprocess.run([sys.executable, '-c', SCRIPT], cwd=ROOT, env=os.environ | {'TMPDIR': str(tmp_path)}, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert eval(done.stdout.splitlines()[-1]) == {
        'wrong': True, 'nothing': False, 'for ever': True, 'the same': False, 'does not compile': True, 'in a fixture only': True, 'files': False}
    assert before == (sorted(ROOT.glob('*')), sorted((ROOT/'tests').glob('*')), [path.read_bytes() for path in (ROOT/'mnist_sgd').glob('*.py')])
    assert not list(tmp_path.iterdir()), 'the folders of the mutants are gone'


def test_only_what_computes_is_changed():
    sys.path.insert(0, str(ROOT/'tests')) # as a script has it
    mutants = pytest.importorskip('mutants', exc_type=ImportError)
    every = mutants.mutants()
    assert len(every) > 2000 and len({mutant[:3] for mutant in every}) == len(every), 'each has a name of its own'
    assert every == mutants.mutants(), 'in the same order each time'
    assert not [mutant for mutant in every if mutant[1].rpartition('.')[2] in ('show_mistakes', 'plot', 'climb_figure')]
    for module, _, _, _, (start, end, text) in every[:100]:
        source = (ROOT/'mnist_sgd'/f'{module}.py').read_bytes()
        compile(source[:start] + text.encode() + source[end:], module, 'exec')
