"""The site: what `.github/site/pages.py` writes, the pages that `make site` makes of it, and a browser that reads them."""
import importlib.util, json, re
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
HTML = ROOT/'_site'/'html'
spec = importlib.util.spec_from_file_location('pages', ROOT/'.github'/'site'/'pages.py')
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)
pytestmark = pytest.mark.pinned # the newest packages build no site


# what pages.py writes

def notebook(tmp_path, *cells, name='03_linear_model.ipynb'):
    kinds = {'md': nbformat.v4.new_markdown_cell, 'py': nbformat.v4.new_code_cell}
    nbformat.write(nbformat.v4.new_notebook(cells=[kinds[kind](source, **options) for kind, source, options in [(*cell, {})[:3] for cell in cells]]), tmp_path/name)
    return tmp_path/name


def sources(path, answers={}, practice=False): return [cell['source'] for cell in pages.page(path, {'linear_model': ['mnist_loss'], 'data': ['load_pair']}, answers, practice)['cells']]


def test_the_answer_of_a_question_is_folded_with_its_reason(tmp_path):
    shown = nbformat.v4.new_output('execute_result', {'text/plain': '7'})
    path = notebook(tmp_path, ('md', '# A\n\nText.\n\n**Predict.** What is 3 + 4?'), ('py', '3 + 4', {'metadata': {'mnist_sgd': {'question': 'sum'}}, 'outputs': [shown]}),
                    ('md', 'Seven. And so:\n\nAnd on.'))
    nb = pages.page(path, {}, {}, False)
    texts = [cell['source'] for cell in nb['cells']]
    assert texts == ['# A\n\nText.\n\n:::{admonition} Predict\n:class: question\nWhat is 3 + 4?\n:::', '3 + 4',
                     '<details class="answer"><summary>Answer</summary>', '3 + 4', 'Seven.\n\n</details>', 'And so:\n\nAnd on.']
    asked, answer = nb['cells'][1], nb['cells'][3]
    assert not asked['outputs'] and answer['outputs'][0]['data'] == {'text/plain': ['7']} and answer['metadata']['tags'] == ['remove-input']


def test_directives_go_and_tests_are_folded(tmp_path):
    path = notebook(tmp_path, ('md', '# A'), ('py', '#| default_exp a'), ('py', '#| export\n#| slow\ndef f(): pass'), ('py', '# it is\ntest_eq(1, 1)\nassert True'),
                    ('py', 'f()', {'metadata': {'mnist_sgd': {'tests': 'f'}}}), ('py', '%matplotlib inline'))
    nb = pages.page(path, {}, {}, False)
    assert [cell['source'] for cell in nb['cells']] == ['# A', 'def f(): pass', '# it is\ntest_eq(1, 1)\nassert True', 'f()', '%matplotlib inline']
    folded = [('hide-input' in cell['metadata'].get('tags', []), cell['metadata'].get('mystnb', {}).get('code_prompt_show')) for cell in nb['cells'][1:]]
    assert folded == [(False, 'Code'), (True, 'Tests'), (True, 'Tests'), (False, 'Code')]


def test_names_in_code_lead_to_the_reference_once_a_cell(tmp_path):
    path = notebook(tmp_path, ('md', '# `mnist_loss`\n\n`mnist_loss`, `mnist_loss`, `load_pair()`, [`load_pair`](a.ipynb), `other`, `mnist_sgd.data`.\n\n```python\n`mnist_loss`\n```'))
    assert sources(path) == ['# `mnist_loss`\n\n{py:obj}`mnist_loss <mnist_sgd.linear_model.mnist_loss>`, `mnist_loss`, {py:obj}`load_pair() <mnist_sgd.data.load_pair>`, '
                             '[`load_pair`](a.ipynb), `other`, {doc}`mnist_sgd.data </api/data>`.\n\n```python\n`mnist_loss`\n```']


def test_a_page_offers_its_practice_copy_and_colab_where_there_is_an_address(tmp_path, monkeypatch):
    path = notebook(tmp_path, ('md', '# A'), ('md', 'See [it](../tests/ledger.py) and [there](#What-it-is).'))
    monkeypatch.setattr(pages, 'ADDRESS', '')
    assert sources(path) == ['# A', 'See it and [there](#what-it-is).']
    download = '{download}`Download the practice copy <practice/03_linear_model.ipynb>` ({doc}`how to practise </practice>`)'
    assert sources(path, practice=True)[0] == '# A\n\n' + download
    monkeypatch.setattr(pages, 'ADDRESS', 'https://github.com/me/it')
    colab = '[Open in Colab](https://colab.research.google.com/github/me/it/blob/main/nbs/03_linear_model.ipynb)'
    assert sources(path) == ['# A\n\n' + colab, 'See [it](https://github.com/me/it/blob/main/tests/ledger.py) and [there](#what-it-is).']
    assert sources(path, practice=True)[0] == f'# A\n\n{download} · {colab}'
    head = notebook(tmp_path, ('md', '# A\n\n> It.\n\n*About 5 minutes.*\n\nHere it is:'))
    assert sources(head) == [f'# A\n\n> It.\n\n*About 5 minutes.*\n\n{colab}\n\nHere it is:']


def test_the_page_to_draw_on_is_linked_as_it_is(tmp_path):
    assert sources(notebook(tmp_path, ('md', '# A\n\nDraw on [this page](draw.html).'))) == ['# A\n\nDraw on <a href="draw.html">this page</a>.']


def test_answers_stand_below_their_questions(tmp_path):
    answers = notebook(tmp_path, ('md', '## [A](03_linear_model.ipynb)'), ('md', '**2.** *Why?*\n\nBecause.'), ('py', '#| slow\n1 + 1'), name='96_answers.ipynb')
    found = pages.answers_of(answers)
    assert found.keys() == {'03_linear_model.ipynb'} and found['03_linear_model.ipynb'].keys() == {2}
    path = notebook(tmp_path, ('md', '# A\n\n1. One.\n2. Two.\n\n### Questions\n\n1. What?\n2. Why?\n\nNext: [b](b.ipynb).'))
    assert sources(path, found['03_linear_model.ipynb']) == ['# A\n\n1. One.\n2. Two.\n\n',
        '### Questions\n\n1. What?\n2. Why?\n\n<details class="answer"><summary>Answer</summary>', 'Because.', '1 + 1', '</details>', 'Next: [b](b.ipynb).']


def test_the_reference_has_every_parameter_with_its_comment_and_no_path_of_a_machine():
    for module, names in pages.public().items():
        text = pages.reference(module, names)
        assert str(ROOT) not in text and str(Path.home()) not in text
        assert all(re.search(rf'^:+{{py:\w+}} {name}\b', text, re.M) for name in names), module
        assert {*re.findall(r'^\| `(\w+)` \| .* \|  \|$', text, re.M)} <= {'moment', 'name', 'value'}, module # of the Learner's tell and log
    assert '| `npz` | `= NPZ` | a file made by `pack_mnist` |' in pages.reference('data', ['load_pair'])
    assert ':::{py:method} fit(epochs, lr=1.0, cbs=(), reset_opt=False)' in pages.reference('learner_from_scratch', ['Learner'])


# the pages of `make site`

needs_site = [pytest.mark.slow, pytest.mark.skipif(not HTML.exists(), reason='`make site` makes the pages')]


class Page(HTMLParser):
    "Links, anchors, images and what a page loads."
    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.images, self.loads = [], set(), [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'id' in attrs: self.anchors.add(attrs['id'])
        if tag == 'a' and 'href' in attrs: self.links.append(attrs['href'])
        if tag == 'img': self.images.append((attrs['src'], attrs.get('alt', '')))
        if tag in ('script', 'img', 'iframe') and 'src' in attrs: self.loads.append(attrs['src'])
        if tag == 'link' and attrs.get('rel') not in ('index', 'search', 'next', 'prev'): self.loads.append(attrs['href'])


def site_pages(): return {path: Page(path) for path in sorted(HTML.rglob('*.html'))}


class TestPages:
    pytestmark = needs_site

    def test_links_anchors_and_files(self):
        found = site_pages()
        assert len(found) > 30
        for path, page in found.items():
            for link in page.links + page.loads:
                parts = urlsplit(link)
                if parts.scheme in ('http', 'https', 'mailto', 'data'): continue
                target = (path.parent/unquote(parts.path)).resolve() if parts.path else path
                assert target.exists(), f'{path.name}: {link}'
                if parts.fragment and target in found: assert unquote(parts.fragment) in found[target].anchors, f'{path.name}: {link}'

    def test_nothing_comes_from_another_host(self):
        for path, page in site_pages().items(): assert not [load for load in page.loads if urlsplit(load).scheme in ('http', 'https') or load.startswith('//')], path
        for path in HTML.glob('_static/**/*.css'): assert not re.search(r'(@import|url\()[^;]*//', path.read_text(encoding='utf-8')), path

    def test_images_say_what_is_to_be_seen(self):
        unnamed = {(path.name, src) for path, page in site_pages().items() for src, alt in page.images if not alt.strip() or alt.startswith(('_images/', '../_images/'))}
        assert not unnamed

    def test_every_notebook_is_there_without_directives(self):
        for path in (ROOT/'nbs').glob('*.ipynb'):
            text = (HTML/f'{path.stem}.html').read_text(encoding='utf-8')
            prose = re.sub('<[^>]*>', '', re.sub('<(pre|code).*?</\\1>', '', text, flags=re.DOTALL))
            assert not re.search(r'\*\*Predict|:::|\{py:', prose), path.name
            for code in re.findall('<pre.*?</pre>', text, re.DOTALL): assert not re.search(r'^#\|', re.sub('<[^>]*>', '', code), re.M), path.name
            assert text.count('<details class="answer">') == text.count('</summary>') - text.count('<details class="admonition hide'), path.name

    def test_a_table_that_a_cell_has_written_is_a_table(self):
        for name in ('97_glossary', '92_misprints'): assert not re.search(r'<p>\|', (HTML/f'{name}.html').read_text(encoding='utf-8')), name

    def test_wide_figures_are_marked(self):
        text = (HTML/'02_manual_sgd.html').read_text(encoding='utf-8')
        assert re.search('<img[^>]*class="wide"', text)

    def test_practice_copies_can_be_downloaded(self):
        for path in (ROOT/'_site'/'pages'/'practice').glob('*.ipynb'):
            copies = [HTML/link for link in site_pages()[HTML/f'{path.stem}.html'].links if link.endswith(path.name)]
            assert copies and json.loads(copies[0].read_text(encoding='utf-8')) == json.loads(path.read_text(encoding='utf-8'))


# a browser

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def address():
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=HTML))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture
def tab(browser, address):
    "A page of a phone's width; what it complains about, and what it asks other hosts for, fails the test."
    context = browser.new_context(viewport={'width': 390, 'height': 844}, has_touch=True)
    tab, wrong = context.new_page(), []
    tab.on('console', lambda message: wrong.append(message.text) if message.type == 'error' else None)
    tab.on('pageerror', lambda error: wrong.append(str(error)))
    tab.on('request', lambda request: wrong.append(request.url) if not request.url.startswith((address, 'data:')) else None)
    yield tab
    context.close()
    assert not wrong


class TestBrowser:
    pytestmark = needs_site

    @pytest.mark.parametrize('scheme', ['light', 'dark'])
    def test_no_page_scrolls_sideways_on_a_phone(self, tab, address, scheme):
        tab.emulate_media(color_scheme=scheme)
        for path in sorted(HTML.rglob('*.html')):
            if scheme == 'dark' and path.parent != HTML: continue
            tab.goto(f'{address}/{path.relative_to(HTML).as_posix()}')
            assert tab.evaluate('document.documentElement.scrollWidth') <= 390, path.name

    def test_the_search_finds_a_function(self, tab, address):
        tab.goto(f'{address}/search.html?q=mnist_loss')
        tab.wait_for_selector('#search-results li a')
        links = tab.eval_on_selector_all('#search-results li a', 'links => links.map(a => a.getAttribute("href"))')
        assert any('api/linear_model.html' in link for link in links) and any(link.startswith('03_linear_model.html') for link in links)

    def test_a_question_opens(self, tab, address):
        tab.goto(f'{address}/03_linear_model.html')
        answer = tab.locator('details.answer').first
        output = answer.locator('.output').first
        assert not output.is_visible()
        answer.locator('summary').click()
        assert output.is_visible() and 'torch.Size([12396, 784])' in output.inner_text()
        assert tab.locator('math').count() > 5

    def test_the_page_to_draw_on_is_there_and_in_its_notebook(self, tab, address):
        tab.goto(f'{address}/index.html')
        tab.locator('a[href="draw.html"]').first.click()
        assert tab.url == f'{address}/draw.html' and tab.inner_text('#told').startswith('The pad is empty')
        tab.goto(f'{address}/11_own_handwriting.html')
        assert tab.frame_locator('iframe').locator('#told').inner_text().startswith('The pad is empty')

    def test_a_name_leads_to_the_reference_and_the_page_to_the_next(self, tab, address):
        tab.goto(f'{address}/03_linear_model.html')
        tab.locator('a[href="api/linear_model.html#mnist_sgd.linear_model.mnist_loss"]').first.click()
        assert 'Mean distance between sigmoid(predictions) and targets.' in tab.inner_text('article')
        tab.goto(f'{address}/03_linear_model.html')
        tab.locator('a.next-page').click()
        assert tab.url == f'{address}/04_basic_optim.html'
