"README.md and its figures from the front page, nbs/index.ipynb: `make readme`."
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).parents[1]


def readme(page=ROOT/'nbs'/'index.ipynb'):
    """The text of README.md, and {path: bytes} of its figures.

    A cell that draws names its figure in its metadata, `mnist_sgd: {figure: climb}`, and says in words what it shows,
    `mystnb: {image: {alt: …}}`.
    """
    nb = nbformat.read(page, as_version=4)
    nb.metadata.language_info = {'name': 'python'} # the colours of its code; nbdev_clean takes the name away
    words = {}
    for cell in nb.cells:
        for output in cell.get('outputs', []):
            if 'image/png' not in output.get('data', {}): continue
            output.metadata.filename = f"{cell.metadata.mnist_sgd.figure}.png"
            words[output.metadata.filename] = cell.metadata.mystnb.image.alt
    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {'remove-input'} # as myst-nb calls them
    config.TagRemovePreprocessor.remove_cell_tags = {'remove-cell'}
    text, resources = MarkdownExporter(config=config).from_notebook_node(nb, {'output_files_dir': 'nbs/images'})
    # the links of the notebook are relative to nbs/, those of README.md to the top
    text = re.sub(r'\]\(\.\./', '](', text)
    text = re.sub(r'\]\((\d\w*\.ipynb|images/|draw\.html)', r'](nbs/\1', text)
    text = re.sub(r'!\[png\]\(nbs.images.([^)]+)\)', lambda m: f'![{words[m[1]]}](nbs/images/{m[1]})', text)
    return text, {name.replace('\\', '/'): png for name, png in resources['outputs'].items()}


if __name__ == '__main__':
    text, figures = readme()
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    for name, png in figures.items(): (ROOT/name).write_bytes(png)
