"Packaging: everything that changes from project to project stands in settings.ini."
import json
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
nbs = cfg["lib_name"] + ".nbs"


def absolute_links(text, url, branch):
    "README with links and images that also work on PyPI. Without an address it stays as it is."
    def absolute(m): return f"{m[1]}{url}/{'raw' if m[1].startswith('!') else 'blob'}/{branch}/"
    return re.sub(r"(!?\[[^\]]*\]\()(?![a-z]+:|#)", absolute, text) if url else text


def without_outputs(text):
    "A notebook without its saved outputs, which are nearly all of its bytes."
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


class BuildPy(build_py):
    "Notebooks are copied without their outputs."
    def copy_file(self, infile, outfile, *args, **kwargs):
        if not str(infile).endswith(".ipynb"): return super().copy_file(infile, outfile, *args, **kwargs)
        Path(outfile).write_text(without_outputs(Path(infile).read_text(encoding="utf-8")), encoding="utf-8")
        return outfile, True


def extras():
    "{extra: requirements}, of the keys in settings.ini that end in _requirements."
    found = {key.removesuffix("_requirements"): value.split() for key, value in cfg.items() if key.endswith("_requirements")}
    return found | {"dev": [*found["test"], *found["notebooks"], *found["dev"]]}


def urls():
    "Only those that are set."
    git = cfg["git_url"].rstrip("/")
    found = {"Source": git, "Changelog": git and f"{git}/blob/{cfg['branch']}/CHANGELOG.md", "Documentation": cfg["doc_host"]}
    return {name: url for name, url in found.items() if url}


if __name__ == "__main__":
    setup(
        name=cfg["lib_name"],
        version=cfg["version"],
        description=cfg["description"],
        long_description=absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), cfg["git_url"].rstrip("/"), cfg["branch"]),
        long_description_content_type="text/markdown",
        author=cfg["author"],
        license_expression=cfg["license_expression"], # of the code, and of the images
        license_files=["LICENSE", "LICENSE-DATA"],
        keywords=cfg["keywords"].split(),
        classifiers=[
            "Development Status :: 3 - Alpha",
            "Intended Audience :: Education",
            "Natural Language :: English",
            "Operating System :: OS Independent",
            "Programming Language :: Python :: 3 :: Only",
            *(f"Programming Language :: Python :: {version}" for version in cfg["pythons"].split()),
            "Topic :: Education",
            "Topic :: Scientific/Engineering :: Artificial Intelligence",
            "Typing :: Typed"],
        project_urls=urls(),
        python_requires=f">={cfg['min_python']}",
        # the notebooks of the walk travel inside the package, where mnist_sgd_practice finds them
        packages=find_packages(include=[cfg["lib_name"]]) + [nbs],
        package_dir={nbs: cfg["nbs_path"]},
        package_data={cfg["lib_name"]: ["mnist.npz", "strokes.json", "draw.html", "figures.mplstyle", "py.typed", "__init__.pyi"], nbs: ["[0-8]*.ipynb"]},
        install_requires=cfg["requirements"].split(),
        extras_require=extras(),
        entry_points={"console_scripts": cfg["console_scripts"].split()},
        cmdclass={"build_py": BuildPy},
        zip_safe=False,
    )
