"Packaging: everything that changes from project to project stands in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
test = cfg["test_requirements"].split()

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    classifiers=["Intended Audience :: Education", "Programming Language :: Python :: 3"],
    python_requires=f">={cfg['min_python']}",
    # the notebooks of the walk travel inside the package, where mnist_sgd_practice finds them
    packages=find_packages(include=[cfg["lib_name"]]) + [cfg["lib_name"] + ".nbs"],
    package_dir={cfg["lib_name"] + ".nbs": cfg["nbs_path"]},
    package_data={cfg["lib_name"]: ["mnist.npz", "figures.mplstyle"], cfg["lib_name"] + ".nbs": ["[0-8]*.ipynb"]},
    install_requires=cfg["requirements"].split(),
    extras_require={"test": test, "dev": test + cfg["dev_requirements"].split()},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
