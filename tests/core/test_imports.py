"""What `import percep` loads, what the command does, and that the rest is reached by name all the same."""

import subprocess
import sys

import pytest

import percep

pytestmark = pytest.mark.multiprocess

HEAVY = ("torch", "torchvision", "timm", "captum", "pandas", "matplotlib", "pyarrow", "rich", "scipy", "kornia")

LOADED = """
import sys, torch, numpy
before = set(sys.modules)
def added():
    return sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
import percep
print(*added())
[getattr(percep, name) for name in percep.__all__ if name not in ('data', 'explain', 'models')]
print(*added())
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

KEPT = """
import pickle, sys
import percep
assert {"SSIMBall", "attacks", "solve"} <= set(dir(percep)) and "torch" not in sys.modules
window = percep.Window.gaussian()
assert isinstance(pickle.loads(pickle.dumps(window)), percep.Window) and percep.Window is type(window)
assert pickle.loads(pickle.dumps(percep.solve)) is percep.solve
assert percep.attacks.FrankWolfe.__module__.startswith("percep.attacks")
print(percep.SSIMBall.__module__, percep.Window is percep.windows.Window)
"""

CONFIGURED = """
import sys
import percep.cli.main
from percep.cli.main import main
assert main(ARGUMENTS) == CODE
print("loaded:", *(name for name in (*HEAVY, *MORE) if name in sys.modules))
"""


def _output(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow("a fresh Python imports torch")
def test_import_adds_nothing_to_torch_and_numpy() -> None:
    """Neither captum, kornia, matplotlib, pandas, scipy, statsmodels, timm, torchvision nor anything else."""
    assert _output(LOADED).splitlines() == ["percep", "percep"]


def test_import_loads_neither_torch_nor_numpy() -> None:
    program = "import sys, percep; print({'torch', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules))"
    assert _output(program) == "set()"


ATTACKS = """
import sys
import percep
assert {"baselines", "integrations", "resave"} <= set(dir(percep.attacks))
assert percep.attacks.FrankWolfe and not any(name.startswith("percep.attacks.baselines") for name in sys.modules)
assert not {"foolbox", "torchattacks", "adv_lib", "art"} & set(sys.modules)
print(percep.attacks.baselines.Baseline.__name__, percep.attacks.resave.cheapest_saved.__name__)
assert percep.attacks.integrations is sys.modules["percep.attacks.integrations"]
print({"foolbox", "torchattacks", "adv_lib", "art"} & set(sys.modules))
try: percep.attacks.nothing
except AttributeError as error: print(error)
"""


@pytest.mark.slow("imports all there is, in a Python that has nothing yet")
def test_every_public_name_is_reached_on_first_use_and_as_good_as_an_imported_one() -> None:
    """The modules of attacks as the README writes them, `attacks.baselines.Baseline`: no other library's attacks
    are imported for it."""
    assert _output(KEPT + ATTACKS + REACHED).splitlines() == [
        "percep.ball True",
        "Baseline cheapest_saved",
        "set()",
        "module 'percep.attacks' has no attribute 'nothing'",
        "Classifier iou",
    ]


def test_unknown_names_are_attribute_errors() -> None:
    program = "import percep\ntry: percep.nothing\nexcept AttributeError as error: print(error)"
    assert _output(program) == "module 'percep' has no attribute 'nothing'"
    assert not hasattr(percep, "nothing")


@pytest.mark.parametrize(
    ("arguments", "code", "more"),
    [
        (["ball.flor=0.9"], 2, ("hydra", "omegaconf", "yaml")),
        (["model=mobilenet_v3"], 2, ("hydra", "omegaconf", "yaml")),
        (["--unknown"], 2, ("hydra", "omegaconf", "yaml")),
        (["ball.floor=1.5"], 2, ()),
        (["-m", "ball.floor=0.9,1.5"], 2, ()),
        (["--cfg", "job"], 0, ()),
    ],
)
def test_a_command_line_is_checked_before_what_takes_seconds(
    arguments: list[str], code: int, more: tuple[str, ...]
) -> None:
    values = {"ARGUMENTS": arguments, "CODE": code, "HEAVY": HEAVY, "MORE": more}
    program = "\n".join(f"{name} = {value!r}" for name, value in values.items()) + CONFIGURED
    assert _output(program).splitlines()[-1:] == ["loaded:"]


HELP = """
import contextlib, io, sys
from percep.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as text:
    assert main(["--help"]) == 0
print(len(text.getvalue()) > 1000, [name for name in (*HEAVY, "hydra", "omegaconf") if name in sys.modules])
"""


def test_help_needs_neither_hydra_nor_torch() -> None:
    assert _output(f"HEAVY = {HEAVY!r}{HELP}") == "True []"


BARE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refused())
import percep.attacks, percep.data, percep.models
import benchmarks.gpu.__main__, benchmarks.gpu.parts
import tests.kernels.test_device
print(percep.attacks.FrankWolfe.__name__, percep.SSIMBallLayer.__name__, percep.models.Classifier.__name__)
"""


@pytest.mark.slow("a fresh Python imports torch, timm and hypothesis")
def test_a_machine_with_little_more_than_torch_imports_attacks_models_and_the_gpu_run() -> None:
    absent = ("kornia", "captum", "hydra", "omegaconf", "foolbox", "efficientnet_lite_pytorch", "webdataset", "art")
    assert _output(f"ABSENT = {absent!r}{BARE}").split() == ["FrankWolfe", "SSIMBallLayer", "Classifier"]
