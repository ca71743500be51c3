"""What hydra composes of `conf/` and a command line: the schemas it starts from, and the check of what comes out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from typing import get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import run_job
from hydra.errors import HydraException, OverrideParseException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from percep.cli.command_line import CONFIGURATION, in_a_shell, unknown_key
from percep.errors import InputError, PercepError, one_line
from percep.runs import TASKS
from percep.runs.config import Config
from percep.runs.settings import validated


def run_composed(settings: Sequence[str], job: Callable[[DictConfig], None]) -> None:
    """Composes what a command line asks for, and runs it as hydra's main function does, which composes it twice.

    Args:
        settings: `key=value` as hydra's grammar reads it, none of them about hydra itself.
        job: it is given the configuration without hydra's own, which is validated there.

    Raises:
        HydraException, OmegaConfBaseException: what hydra cannot compose; and whatever `job` raises.
    """
    with _initialised():
        composed = compose("config", list(settings), return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(composed))
        _ = run_job(job, composed, "hydra.run.dir", None, context).return_value  # raises what the job has raised


def check(settings: Sequence[str], *, sweeps: bool) -> None:
    """Composes and validates what a command line asks for, in a sweep every run of it, before anything is run.

    Args:
        settings: `key=value` as hydra's grammar reads it.
        sweeps: each combination of values is a run.

    Raises:
        InputError: a value out of range; in a sweep what is wrong with its first wrong run.
        HydraException, OmegaConfBaseException: what hydra cannot compose, unless in a sweep.
    """
    with _initialised():
        if sweeps:
            _check_sweep(list(settings))
        else:
            _validated(compose("config", list(settings), return_hydra_config=True))


@contextmanager
def _initialised() -> Iterator[None]:
    """Hydra knows `conf/`, and afterwards what it knew before."""
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_dir(str(CONFIGURATION), job_name="percep", version_base="1.3"):
            yield
    finally:
        HydraConfig.instance().cfg = before


def explained(error: Exception) -> str:
    """What went wrong and what to change, for people."""
    if isinstance(error, PercepError):
        return str(error)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, OmegaConfBaseException):
        return _explained(cause)
    if isinstance(error, OverrideParseException):
        detail = str(error).partition("See https://")[0].splitlines()[-1]
        return (
            f"{error.override} is not in hydra's grammar ({detail}): put a value with special characters in quotes, "
            f"{in_a_shell(error.override)}"
        )
    if isinstance(error, HydraException):
        return str(error).partition("Config search path")[0]
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return one_line(error)


def _explained(error: OmegaConfBaseException) -> str:
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: give {error.full_key}=VALUE"
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and is_dataclass(error.object_type):
        return unknown_key(str(error.full_key), [field.name for field in fields(error.object_type)])
    hints = [get_type_hints(task.config) for task in TASKS.values()]
    sections = {name: kind for hint in hints for name, kind in hint.items() if is_dataclass(kind)}
    if error.full_key in sections:
        keys = [f"{error.full_key}.{field.name}" for field in fields(sections[error.full_key])]
        return f"{error.full_key} has no value but keys, {', '.join(keys)}: give {keys[-1]}=VALUE for example"
    return f"{error.full_key}: {str(error.msg).splitlines()[0]}"


def _check_sweep(settings: list[str]) -> None:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    master = hydra.compose_config("config", [*settings, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
    sweeper = master.hydra.sweeper
    if not sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
        return  # it chooses values by the results of earlier ones
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    tasks = [*params, *master.hydra.overrides.task]
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(tasks)
    swept = {override.get_key_element() for override in overrides if override.is_sweep_override()}
    ((*jobs,),) = BasicSweeper.split_arguments(overrides, None)
    models: dict[str, tuple[object, ...]] = {}
    for number, job in enumerate(jobs):
        values = " ".join(setting for setting in job if setting.partition("=")[0] in swept)
        try:
            composed = loader.load_sweep_config(master, job)
            with open_dict(composed):
                composed.hydra.job.id, composed.hydra.job.num = str(number), number
            _check_checkpoint(_validated(composed), models)
        except (PercepError, HydraException, OmegaConfBaseException) as error:
            place = f"run {number + 1} of {len(jobs)}, {values}"
            raise InputError(f"{place}: {explained(error)}; nothing was run") from error


def _check_checkpoint(config: Config, models: dict[str, tuple[object, ...]]) -> None:
    """Raises InputError where a checkpoint was that of another model, in `models`."""
    model = asdict(config.model)
    checkpoint = model.pop("checkpoint")
    network = tuple(model.get(name) for name in ("source", "name", "network"))
    if checkpoint is not None and models.setdefault(checkpoint, network) != network:
        raise InputError(
            f"model.checkpoint={checkpoint} is given to several models, and fits one of them: sweep over the others "
            "without it, or run percep once for each model with a checkpoint of its own"
        )


def _validated(composed: DictConfig) -> Config:
    """Validates a configuration with hydra's own, which interpolations such as `${hydra:job.num}` refer to."""
    HydraConfig.instance().set_config(composed)
    own = composed.copy()
    with open_dict(own):
        del own["hydra"]
    return validated(own)
