"""What pyproject.toml cannot say: a wheel has the files of `conf/` inside the package, where the command reads them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfiguration(build_py):
    """Copies `conf/` into the package that is built; a checkout, editable or not, keeps the one at the top."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("conf", Path(self.build_lib) / "percep" / "conf", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfiguration})
