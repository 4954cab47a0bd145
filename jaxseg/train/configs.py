"""Config files: by path, or by the name of one that is installed with the package."""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from jaxseg.errors import UserError
from jaxseg.train.experiment import Experiment


def config_names() -> list[str]:
    """The installed configs, such as "detr/r50_coco"; a leading underscore hides a shared part."""
    import jaxseg_configs

    prefix = jaxseg_configs.__name__ + "."
    found = pkgutil.walk_packages(jaxseg_configs.__path__, prefix)
    names = [m.name.removeprefix(prefix).replace(".", "/") for m in found if not m.ispkg]
    return sorted(name for name in names if "/_" not in name)


def load_config(config: str) -> Experiment:
    """The experiment of a config, as its file says.

    Args:
      config: path of a Python file with a function `experiment() -> Experiment`, or a name.

    Raises:
      UserError: no such file or name (those there are are listed), or no experiment in it.
    """
    module = _from_path(Path(config)) if config.endswith(".py") else _from_name(config)
    make = getattr(module, "experiment", None)
    made = make() if callable(make) else None
    if not isinstance(made, Experiment):
        raise UserError(
            f"the config {config} must define `experiment()` and return a "
            "jaxseg.train.experiment.Experiment from it"
        )
    return made


def _from_path(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no config file {path}: {_known()}")
    spec = importlib.util.spec_from_file_location(f"jaxseg_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    # A dataclass whose annotations are text looks its module up here.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error
    return module


def _from_name(name: str) -> ModuleType:
    names = config_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"no config {name!r}{hint}: {_known()}")
    return importlib.import_module(f"jaxseg_configs.{name.replace('/', '.')}")


def _known() -> str:
    return f"give the path of a .py file, or one of {', '.join(config_names())}"
