"""Task names -> environments.

A task is an EnvPool id, `envpool:ID`, `gymnasium:ID`, `gymnax:ID`, `robot:NAME`, `probe:NAME` (or
`probe:NAME/continuous`), or `module:attribute` or `FILE.py:attribute` for the user's own class or factory.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import json
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import cloudpickle
import numpy as np

from surefoot.config import Config, parse_options
from surefoot.envs.contract import NOT_CLOSED, Camera, Environment, EnvSpec
from surefoot.envs.guard import spec_of
from surefoot.envs.hosting import Hosting
from surefoot.envs.jax_native import JaxEnvironment, SingleEnvironment
from surefoot.envs.source import source_fingerprint
from surefoot.errors import UserError, check_names, near_matches
from surefoot.host_process import FAILURES, failure
from surefoot.machine import user_path


class _Use(NamedTuple):
    """What environments are for, and how they are stepped; see `make_environment`."""

    hosting: Hosting
    training: bool
    camera: Camera | None


PREFIXES = ("envpool", "gymnasium", "gymnax", "robot", "probe")


def is_import_path(task: str) -> bool:
    """Whether the task names user code, `module:attribute` or `FILE.py:attribute`."""
    return (":" in task and task.split(":", 1)[0] not in PREFIXES) or task.endswith(".py")


def names_code(task: str) -> bool:
    """Whether making the task imports a module that the name chooses; never done for a file's name.

    `module:attribute`, `FILE.py:attribute`, and Gymnasium's own `gymnasium:module:ID`.
    """
    return is_import_path(task) or task.count(":") > 1


def refuse_code(task: Any, env_options: Sequence[str]) -> None:
    """Raise ValueError for a setting from a file that may name code, such as `env_id=module:ID`.

    Some registered Gymnasium environments import what a setting names, and none of them says so. What
    settings mean to the user's own code is the user's to say.
    """
    if not isinstance(task, str) or not task.startswith("gymnasium:"):
        return
    for item in env_options:
        # as the task will see it: TOML may write a colon as \u003a
        values = list(parse_options([item]).values())
        if ":" in json.dumps(values, separators=(",", "="), default=str):
            raise UserError(
                f"{task}: {item!r} may name code, which is not taken from a file; give --env-options on the "
                "command line, or a function of yours that makes the task (FILE.py:NAME)"
            )


def make_environment(
    task: Any,
    num_envs: int,
    *,
    seed: np.random.SeedSequence,
    options: Mapping[str, Any] | None = None,
    hosting: Hosting | None = None,
    training: bool = False,
    camera: Camera | None = None,
) -> Environment:
    """The environment of a task.

    Args:
        task: a name (see the module), an `Environment`, a `SingleEnvironment`, or a callable that
            makes a Gymnasium environment or a `SingleEnvironment`.
        num_envs: environments to step together.
        seed: where every environment's own seed is spawned from.
        options: settings of the task.
        hosting: how Gymnasium environments are stepped, and what becomes of those that fail.
        training: whether to learn on it: robots' tasks may practise in another way than they are judged.
        camera: how pictures are taken by `Environment.render`; none: there are none.

    Raises:
        ValueError: unknown task or option (with near matches), unsupported spaces, a missing extra.
    """
    options, use = dict(options or {}), _Use(hosting or Hosting(), training, camera)
    seeds = [int(child.generate_state(1)[0] >> 1) for child in seed.spawn(num_envs)]
    if not isinstance(task, str):
        return _from_object(task, num_envs, seeds, options, use, task_name(task))
    if is_import_path(task):
        return _from_object(_imported(task), num_envs, seeds, options, use, task)
    prefix, _, name = task.partition(":") if ":" in task else ("envpool", ":", task)
    if prefix == "gymnasium":
        from surefoot.envs.gymnasium import (
            GymnasiumEnvironment,
            comes_with_gymnasium,
            looked_at,
            make_registered,
            time_limit,
        )

        if ":" in name:  # Gymnasium imports the module of module:ID
            _search_here()
        make = make_registered(name, options, camera)
        return GymnasiumEnvironment(
            looked_at(make, camera) if camera else make,
            num_envs,
            seeds=seeds,
            name=task,
            hosting=use.hosting,
            cheap_to_make=comes_with_gymnasium(name),
            max_episode_steps=time_limit(name, options),
        )
    if prefix == "probe":
        return _from_object(_probe(name), num_envs, seeds, options, use, task)
    if prefix == "robot":
        return _from_object(robot_task(task), num_envs, seeds, options, use, task)
    _refuse_hosting(use.hosting, task)
    if prefix == "gymnax":
        from surefoot.envs.gymnax import GymnaxEnvironment

        return JaxEnvironment(GymnaxEnvironment(name, options), num_envs)
    from surefoot.envs.envpool import EnvPoolEnvironment

    return EnvPoolEnvironment(name, num_envs, seeds=seeds, options=options, camera=camera)


def _refuse_hosting(hosting: Hosting, name: str) -> None:
    """Raise ValueError if what is meant for Gymnasium environments is asked of another."""
    for option, value in (
        ("env_workers", hosting.workers),
        ("on_env_failure", hosting.on_failure),
    ):
        if value not in (0, "fail"):
            raise UserError(
                f"{option} = {value!r} is for gymnasium:ID and your own Gymnasium environments; {name} is "
                "stepped by its own simulator, and what it returns is checked by the program around it"
            )


def _probe(name: str) -> SingleEnvironment:
    from surefoot.envs.probes import make_probe

    name, _, actions = name.partition("/")
    if actions not in ("", "discrete", "continuous"):
        near = near_matches(actions, ("discrete", "continuous"))
        raise UserError(f"probe actions are discrete or continuous, not {actions!r}{near}")
    return make_probe(name, actions=actions or "discrete")


def task_name(task: Any) -> str:
    """A task's name for messages and files; objects are `python:NAME`, which no file can name."""
    if isinstance(task, str):
        return task
    if isinstance(task, Environment):
        return f"python:{spec_of(task).name}"
    if isinstance(task, SingleEnvironment):
        return f"python:{getattr(task, 'name', type(task).__name__)}"
    return f"python:{getattr(task, '__name__', type(task).__name__)}"


def _from_object(
    task: Any,
    num_envs: int,
    seeds: list[int],
    options: dict[str, Any],
    use: _Use,
    name: str,
) -> Environment:
    import gymnasium

    if isinstance(task, (Environment, SingleEnvironment)) or _is_robot(task):
        _refuse_hosting(use.hosting, name)
    if _is_robot(task):
        from surefoot.robots.environment import RobotEnvironment

        task = _with_options(task, options, name)
        if use.training:
            task = task.practised(options)
        random_ages = use.training and task.stagger
        return RobotEnvironment(task, num_envs, random_ages=random_ages, camera=use.camera)
    if isinstance(task, Environment):
        if options:
            raise UserError(f"{name} is made already: env_options cannot be applied to it")
        if spec_of(task).num_envs != num_envs:
            raise UserError(
                f"{name} holds {task.spec.num_envs} environments, num_envs is {num_envs}"
            )
        return task
    if isinstance(task, SingleEnvironment):
        if options:
            raise UserError(f"{name} takes no env_options, got {', '.join(options)}")
        return JaxEnvironment(task, num_envs)
    if isinstance(task, gymnasium.Env):
        raise UserError(
            f"{name} is one environment; pass its class or a function that makes it, so that "
            f"{num_envs} of them can be made"
        )
    if not callable(task):
        raise UserError(
            f"{name} is a {type(task).__name__}: a task must be a name, an Environment, a "
            f"SingleEnvironment, or a class or function that makes one{_way_out(task)}"
        )
    if _is_robot(task, a_class=True):
        task = _call(task, {}, name)
        return _from_object(task, num_envs, seeds, options, use, name)
    from surefoot.envs.gymnasium import GymnasiumEnvironment, draws, looked_at

    if use.camera is not None:
        options = {**draws(task), **options}
    made = _call(task, options, name)
    if isinstance(made, (Environment, SingleEnvironment)) or _is_robot(made):
        return _from_object(made, num_envs, seeds, {}, use, name)
    if not isinstance(made, gymnasium.Env):
        raise UserError(
            f"{name} made a {type(made).__name__}, not a gymnasium.Env or a surefoot environment"
            f"{_way_out(made)}"
        )
    ready = [made]  # the first instance is not thrown away: some are slow to make
    anew = functools.partial(cast("Callable[..., gymnasium.Env]", task), **options)

    def make() -> gymnasium.Env:
        return ready.pop() if ready else anew()

    if use.hosting.workers:
        try:  # it has served: workers make their own
            made.close()
        except FAILURES as error:
            warnings.warn(_failed(f"{name} {NOT_CLOSED}", error), stacklevel=1)
        make = anew  # what is sent need not import this module
    if use.camera is not None:
        make = looked_at(make, use.camera)
    return GymnasiumEnvironment(make, num_envs, seeds=seeds, name=name, hosting=use.hosting)


def _with_options(task: Any, options: dict[str, Any], name: str) -> Any:
    """A robot's task with some of its fields changed."""
    fields = {field.name: field for field in dataclasses.fields(task)}
    check_names(options, fields, what=f"option of {name}:")
    for option, value in options.items():
        now = getattr(task, option)
        if value == "none" and "None" in str(fields[option].type):
            options[option] = value = None
        kind = type(now)
        if kind is tuple and isinstance(value, list):
            options[option] = value = tuple(value)
        wanted = (int, float) if kind is float else (kind,)
        right = (
            value is None
            or now is None
            or (isinstance(value, wanted) and (kind is bool) == isinstance(value, bool))
        )
        if kind in (bool, int, float, str, tuple) and not right:
            raise UserError(f"{name}: {option} = {value!r}, it must be such as {now!r}")
    return dataclasses.replace(task, **options)


def _way_out(thing: Any) -> str:
    """What to do with an object of a kind that people bring and that is not taken."""
    import gymnasium

    if isinstance(thing, gymnasium.vector.VectorEnv):
        return (
            "; it is many environments at once: pass what makes one of them, and --num-envs many are made "
            "and stepped together"
        )
    if any(kind.__module__.split(".")[0] == "gym" for kind in type(thing).__mro__):
        return (
            "; it is of the old gym package: import gymnasium as gym, let reset(seed=...) return two values "
            "(observation, info) and step() five, or wrap it in one of shimmy's (GymV21CompatibilityV0, "
            "GymV26CompatibilityV0)"
        )
    return ""


def _call(make: Callable[..., Any], options: dict[str, Any], name: str) -> Any:
    """What the author's class or function makes; named where it fails."""
    try:
        return make(**options)
    except FAILURES as error:
        # raised by the call itself, it is about what was passed; else about what the author wrote
        if isinstance(error, TypeError) and len(traceback.extract_tb(error.__traceback__)) == 1:
            given = f" with the options {options}" if options else ""
            raise UserError(f"{name} cannot be made{given}: {error}") from error
        raise UserError(_failed(f"{name} cannot be made", error)) from error


def _failed(what: str, error: BaseException) -> str:
    """An error of the author's in words, with its traceback."""
    words, trace = failure(error)
    return f"{what}: {words}\n{trace}".rstrip()


def _search_here() -> None:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # behind the installed packages, which it must not shadow


def _imported(task: str) -> Any:
    """The attribute that `module:attribute` names; what lies in the current folder comes first."""
    module_name, _, attribute = task.rpartition(":")
    if attribute.endswith(".py"):
        named = [f"{task}:{name}" for name in _named_in(_file(Path(task)))]
        raise UserError(
            f"task {task!r}: say which class or function of the file: "
            f"{' or '.join(named[:5]) or 'it has none yet'}"
        )
    if module_name.endswith(".py"):
        return _attribute(task, _module_of(Path(module_name)), module_name, attribute)
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise UserError(
            f"task {task!r} is not of the form module:attribute or FILE.py:attribute, nor does it start with "
            f"{', '.join(f'{prefix}:' for prefix in PREFIXES)}{near_matches(module_name, PREFIXES)}"
        )
    beside = Path.cwd().joinpath(*module_name.split("."))
    if beside.parent == Path.cwd() and beside.with_suffix(".py").is_file():
        return _attribute(task, _module_of(beside.with_suffix(".py")), module_name, attribute)
    _search_here()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"task {task!r}: there is no module {error.name!r} here{near_matches(module_name, PREFIXES)}"
            f"{_shadowed(beside, module_name)}"
        ) from None
    except FAILURES as error:
        raise UserError(
            _failed(f"task {task!r}: {module_name} cannot be imported", error)
        ) from error
    found = Path(getattr(module, "__file__", None) or "").resolve()
    for file in (beside.with_suffix(".py"), beside / "__init__.py"):
        if file.is_file() and file.resolve() != found:
            raise UserError(
                f"task {task!r}: Python finds {found} before {file}; name the file, "
                f"{file.relative_to(Path.cwd())}:{attribute}, or give its folder another name"
            )
    return _attribute(task, module, module_name, attribute)


def _shadowed(beside: Path, module_name: str) -> str:
    """What to say where a module of another package is found in place of the current folder's."""
    file, package = beside.with_suffix(".py"), module_name.partition(".")[0]
    if not file.is_file() or package not in sys.modules:
        return ""
    found = getattr(sys.modules[package], "__file__", None)
    return (
        f"; Python finds {found} before {file}: name the file, {file.relative_to(Path.cwd())}:NAME"
    )


def _attribute(task: str, module: Any, where: str, attribute: str) -> Any:
    if not hasattr(module, attribute):
        near = near_matches(attribute, (n for n in dir(module) if not n.startswith("_")))
        raise UserError(f"task {task!r}: {where} has no {attribute!r}{near}")
    return getattr(module, attribute)


def _file(file: Path) -> Path:
    file = user_path(file).resolve()
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        near = near_matches(file.name, siblings)
        raise UserError(f"there is no file {file.name!r} in {file.parent}{near}")
    return file


def _named_in(file: Path) -> list[str]:
    """Classes and functions of a file that can be a task, without importing it."""
    try:
        parts = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):  # importing it will say what is wrong
        return []
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [part.name for part in parts if isinstance(part, kinds) and part.name[0] != "_"]


def _module_of(file: Path) -> Any:
    """The module in a file, imported as Python would from its folder; once."""
    file = _file(file)
    loaded = sys.modules.get(file.stem)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() == file:
        return loaded
    other = importlib.util.find_spec(file.stem) if loaded is None else None
    if (folder := str(file.parent)) not in sys.path:
        sys.path.append(folder)  # for what the file imports from beside it
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if loaded is None:
        sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        if loaded is None:
            del sys.modules[file.stem]
        raise UserError(_failed(f"{file} cannot be imported", error)) from error
    if other is not None and other.origin != str(file):
        # a worker would import the other module of this name
        cloudpickle.register_pickle_by_value(module)
    return module


def _is_robot(task: Any, *, a_class: bool = False) -> bool:
    """Whether it is a `RobotTask`, or a class of them, without loading MuJoCo: nobody has one before."""
    module = sys.modules.get("surefoot.robots.task")
    if module is None:
        return False
    kind = module.RobotTask
    return isinstance(task, type) and issubclass(task, kind) if a_class else isinstance(task, kind)


def _makes_robots(task: Any) -> bool:
    """Whether it is a function of a file that knows robots' tasks: called, it says whether it makes one."""
    is_function = isinstance(task, types.FunctionType)
    return is_function and any(
        _is_robot(x) or _is_robot(x, a_class=True) for x in [*task.__globals__.values()]
    )


def robot_task(task: Any, options: Mapping[str, Any] | None = None) -> Any:
    """The `RobotTask` that a task is or names, with some of its fields changed; else None."""
    name = task_name(task)
    if isinstance(task, str):
        if task.startswith("robot:"):
            from surefoot.robots.tasks import shipped

            task = shipped(task.partition(":")[2])
        elif is_import_path(task):
            task = _imported(task)
    if _is_robot(task, a_class=True):
        task = _call(cast("Any", task), {}, name)
    elif _makes_robots(task):
        task, options = _call(cast("Any", task), dict(options or {}), name), {}
    return _with_options(task, dict(options or {}), name) if _is_robot(task) else None


def task_fingerprint(task: Any, options: Mapping[str, Any]) -> str | None:
    """What `EnvSpec.fingerprint` is in training on a task; none where all of it is a library's."""
    robot = robot_task(task, options)
    if robot is not None:
        from surefoot.robots.environment import fingerprint

        return fingerprint(robot.practised(options))
    if isinstance(task, str):
        if is_import_path(task):
            task = _imported(task)
        elif task.startswith("gymnasium:"):
            from surefoot.envs.gymnasium import entry_point

            task = entry_point(task.partition(":")[2])
        else:
            return None
    # what was made already has a state, which is not what it is made of
    return source_fingerprint(type(task) if isinstance(task, Environment) else task)


def fingerprinted(spec: EnvSpec, task: Any, options: Mapping[str, Any]) -> EnvSpec:
    """The spec of a task's environments with the task's fingerprint."""
    found = spec.fingerprint or task_fingerprint(task, options)
    return dataclasses.replace(spec, fingerprint=found)


def own_options(task: Any, *, known: bool = False) -> Config:
    """The options of training that become the defaults for a task: a robot's may bring its own.

    Args:
        task: a task.
        known: import nothing that a name chooses.
    """
    if known and isinstance(task, str) and names_code(task):
        return Config()
    robot = robot_task(task)
    return Config() if robot is None else robot.training
