"""What `import percep` loads, and that the rest is reached by name all the same."""

import subprocess
import sys

LOADED = """
import sys, torch, numpy
before = set(sys.modules)
import percep
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(added - set(sys.stdlib_module_names)))
"""

REACHED = """
import percep
from percep import data, explain, models, solve
from percep import *
assert explain is percep.explain and solve is percep.solvers.solve and data is percep.data
assert all(getattr(percep, name) is globals()[name] for name in percep.__all__)
assert set(percep.__all__) <= set(dir(percep))
print(models.Classifier.__name__, explain.iou.__name__)
"""


def _output(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_import_adds_nothing_to_torch_and_numpy() -> None:
    """Neither captum, kornia, matplotlib, pandas, scipy, statsmodels, timm, torchvision nor anything else."""
    assert _output(LOADED) == "percep"


def test_every_public_name_is_reached() -> None:
    assert _output(REACHED) == "Classifier iou"


def test_unknown_names_are_attribute_errors() -> None:
    program = "import percep\ntry: percep.nothing\nexcept AttributeError as error: print(error)"
    assert _output(program) == "module 'percep' has no attribute 'nothing'"
