"README.md and its figure from the front page, nbs/index.ipynb: `make readme`."
import re
from pathlib import Path

from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).parents[1]


def readme():
    "The text of README.md, and {path: bytes} of its figures."
    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {'remove_input'}
    config.TagRemovePreprocessor.remove_cell_tags = {'remove_cell'}
    config.ExtractOutputPreprocessor.output_filename_template = 'climb{extension}'
    text, resources = MarkdownExporter(config=config).from_filename(str(ROOT/'nbs'/'index.ipynb'),
                                                                     resources={'output_files_dir': 'nbs/images'})
    # the links of the notebook are relative to nbs/, those of README.md to the top
    text = re.sub(r'\]\((\d\w*\.ipynb|images/)', r'](nbs/\1', text)
    text = text.replace('![png]', '![Accuracy on the validation set after each epoch]')
    return text, {name.replace('\\', '/'): png for name, png in resources['outputs'].items()}


if __name__ == '__main__':
    text, figures = readme()
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    for name, png in figures.items(): (ROOT/name).write_bytes(png)
