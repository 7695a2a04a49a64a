"""A study: tasks x arms x seeds, where an arm is a named set of option changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from surefoot.config import Config, from_mapping, option_names
from surefoot.config_file import dump_toml
from surefoot.envs.tasks import names_code, own_options, refuse_code
from surefoot.errors import UserError, check_names, near_matches
from surefoot.reading import toml_table

Options = Mapping[str, Any]
Presets = Mapping[str, Callable[[], Config]]

FIRST_TUNING_SEED = 1_000_000
RATE_FACTOR = 3.0  # from one learning rate of the tuning grid to the next


@dataclass(frozen=True)
class Study:
    """What is asked. The docstring under a field is its documentation.

    Every seed means the same environments, the same first networks (where the arms' shapes agree) and
    the same streams in all arms, so that arms are compared seed by seed.
    """

    name: str
    """What the study is called."""
    tasks: Mapping[str, Config]
    """Each task, with the options that all arms share."""
    arms: Mapping[str, Options]
    """Each arm's changes to them."""
    baseline: str
    """The arm that the others are compared with."""
    seeds: int
    """Seeds of each arm on each task; at least 2."""
    first_seed: int = 0
    """The first of them. What a study chooses is to be judged on other seeds."""
    evaluations: int = 20
    """How many times a run's policy is played, at equal distances, the last at its end."""
    episodes: int = 10
    """Episodes each time."""
    as_it_comes: bool = False
    """Play on the task without its env_options, which may shape the reward that is trained on."""
    tune_lr: int = 0
    """Learning rates every arm may choose from on seeds of their own; 0: as they are."""
    tuning_seeds: int = 2
    """Seeds that the choice is made on; they are not reported."""
    question: str = field(default="", compare=False)
    """What the study is about, for the report."""
    arm_env_options: tuple[str, ...] = ()
    """The task's env_options that arms may change: none that changes the reward."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict, compare=False)
    """The least and the most that an episode of a task can return: intervals of its scores end there."""

    def config(self, task: str, arm: str) -> Config:
        """The validated options of an arm on a task, seed 0."""
        options, base = dict(self.arms[arm]), self.tasks[task]
        if own := options.pop("env_options", None):
            kept = [x for x in base.env_options if _key(x) not in map(_key, own)]
            options["env_options"] = (*kept, *own)
        try:
            return from_mapping(options, base=base)
        except UserError as error:
            raise UserError(f"arm {arm!r} on {task}: {error}") from None

    @property
    def every_seed(self) -> range:
        """The seeds of each arm."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def learning_rates(self, config: Config) -> list[float]:
        """The rates an arm may choose from: its own, and powers of 3 around it, the lower ones first.

        Three: a third of it, itself, three times it. Four: a ninth of it too.
        """
        lowest = -(self.tune_lr // 2)
        return [config.learning_rate * RATE_FACTOR ** (lowest + k) for k in range(self.tune_lr)]


def _key(env_option: str) -> str:
    """`KEY` of `KEY=VALUE`."""
    return env_option.partition("=")[0]


_SETTINGS = [f.name for f in fields(Study) if f.name not in ("tasks", "arms", "bounds")]
_WANTED = {
    "name": str,
    "baseline": str,
    "question": str,
    "as_it_comes": bool,
    "arm_env_options": list,
}
# what would make scores incomparable: an arm may not have another budget, or another reward
_SHARED = ("seed", "total_steps")


def check(study: Study) -> Study:
    """Refuse what cannot be answered, before anything is trained.

    Raises:
        ValueError: an option, task or number that cannot be right, or two arms that are the same.
    """
    if study.seeds < 2:
        raise UserError(
            f"seeds = {study.seeds}: an interval needs at least 2 seeds, and 10 are a good start"
        )
    for name in ("evaluations", "episodes", "tuning_seeds"):
        if getattr(study, name) < 1:
            raise UserError(f"{name} = {getattr(study, name)} must be at least 1")
    if not 0 <= study.first_seed < 2**62:
        raise UserError(f"first_seed = {study.first_seed} must be in [0, 2^62)")
    tuned_on = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tuning_seeds)
    if study.tune_lr and any(seed in study.every_seed for seed in tuned_on):
        raise UserError(
            f"first_seed = {study.first_seed}: learning rates are chosen on seeds {tuned_on[0]} to "
            f"{tuned_on[-1]}, which must not be reported; begin elsewhere"
        )
    if study.tune_lr < 0 or study.tune_lr == 1:
        raise UserError(f"tune_lr = {study.tune_lr}: a choice needs at least 2 learning rates")
    if not study.tasks:
        raise UserError("a study needs at least one task: --tasks Hopper-v5, or tasks in the file")
    if len(study.arms) < 2:
        raise UserError(f"a study compares at least 2 arms, this one has {len(study.arms)}")
    if study.baseline not in study.arms:
        near = near_matches(study.baseline, study.arms)
        raise UserError(f"the baseline {study.baseline!r} is not an arm{near}")
    _check_folders(study)
    for arm, options in study.arms.items():
        check_names(options, option_names(), what=f"option of arm {arm!r}:")
        for name in _SHARED:
            if name in options:
                raise UserError(f"arm {arm!r} sets {name}, which all arms of a study share")
        for item in options.get("env_options", ()):
            if _key(str(item)) not in study.arm_env_options:
                raise UserError(
                    f"arm {arm!r} sets {item} of the task: arms with other rewards cannot be compared; where "
                    f'the reward is the same, arm_env_options = ["{_key(str(item))}"] in the study says so'
                )
    check_names(study.bounds, study.tasks, what="task in bounds:")
    for task, config in study.tasks.items():
        if config.seed:
            raise UserError(
                f"{task} sets seed = {config.seed}: a study's seeds are first_seed, first_seed + 1, ..."
            )
        known: dict[Config, str] = {}
        for arm in study.arms:
            of_arm = study.config(task, arm)
            refuse_code(task, of_arm.env_options)
            twin = known.setdefault(of_arm, arm)
            if twin != arm:
                raise UserError(
                    f"arms {twin!r} and {arm!r} have the same options on {task}: there is nothing "
                    "to compare; change one or leave it out"
                )
    return study


def slug(name: str) -> str:
    """The name as a folder's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")


def _check_folders(study: Study) -> None:
    for names in (study.tasks, study.arms):
        folders: dict[str, str] = {}
        for name in names:
            other = folders.setdefault(slug(name).lower(), name)
            if other != name or not slug(name):
                raise UserError(
                    f"{name!r} needs a name of letters or digits, other than {other!r}'s"
                )


def parse_study(
    text: str, *, where: str, presets: Presets, asked: Collection[str] = ()
) -> tuple[Study, Options]:
    """A study from TOML text, and the options that it has for tasks it does not name.

    Args:
        text: keys of `Study`; `tasks` as a list of names, or as tables of options by name, where
            `preset` names options to start from; `options` for all tasks; `arms` as tables.
        where: the file's name, for errors; a study without a name is called like it.
        presets: options by name.
        asked: tasks that the user named; only those of the file's tasks may be your own code.

    Raises:
        ValueError: no TOML, an unknown key or option (with near matches), a value of the wrong kind.
    """
    table = toml_table(text, where=where)
    check_names(table, [*_SETTINGS, "tasks", "arms", "options", "bounds"], what=f"key in {where}:")
    settings = {name: table[name] for name in _SETTINGS if name in table}
    for name, value in settings.items():
        wanted = _WANTED.get(name, int)
        if type(value) is not wanted or (wanted is list and {*map(type, value)} - {str}):
            raise UserError(f"{name} in {where} must be {wanted.__name__}, not {value!r}")
    settings["arm_env_options"] = tuple(settings.get("arm_env_options", ()))
    arms = _tables(table.get("arms", {}), what=f"arms in {where}")
    tasks = table.get("tasks", {})
    if isinstance(tasks, list) and all(isinstance(task, str) for task in tasks):
        tasks = {task: {} for task in tasks}
    tasks = _tables(tasks, what=f"tasks in {where}")
    for task in tasks:
        if names_code(task) and task not in asked:
            raise UserError(
                f"{where}: {task!r} is your own code, and no import path is taken from a file; name "
                "it with --tasks"
            )
    shared = _tables({"options": table.get("options", {})}, what=where)["options"]
    settings.setdefault("name", Path(where).stem)
    settings.setdefault("baseline", next(iter(arms), ""))
    settings.setdefault("seeds", 10)
    study = Study(
        tasks={task: task_options(task, table, shared, presets) for task, table in tasks.items()},
        arms={arm: {k: _from_toml(v) for k, v in table.items()} for arm, table in arms.items()},
        bounds=_bounds(table.get("bounds", {}), where),
        **settings,
    )
    return study, shared


def task_options(task: str, own: Options, shared: Options, presets: Presets) -> Config:
    """A task's options: those of its preset, changed by the study's, changed by its own.

    Raises:
        ValueError: an unknown preset or option, a value of the wrong kind, or one that may name code,
            with the task's name.
    """
    own = dict(own)
    name = own.pop("preset", None)
    if name is not None:
        check_names([str(name)], presets, what=f"preset ({', '.join(presets)}):")
    base = presets[str(name)]() if name is not None else own_options(task, known=True)
    changes = {**shared, **own}
    try:
        config = from_mapping({k: _from_toml(v) for k, v in changes.items()}, base=base)
    except UserError as error:
        raise UserError(f"task {task!r}: {error}") from None
    refuse_code(task, config.env_options)
    return config


def _bounds(value: Any, where: str) -> dict[str, tuple[float, float]]:
    found = {}
    for task, pair in value.items() if isinstance(value, Mapping) else [("", value)]:
        numbers = isinstance(pair, list) and all(type(x) in (int, float) for x in pair)
        if not (task and numbers and len(pair) == 2 and pair[0] < pair[1]):
            raise UserError(
                f"bounds in {where} must be [LEAST, MOST] of a task's returns by its name, not {pair!r}"
            )
        found[task] = (float(pair[0]), float(pair[1]))
    return found


def _tables(value: Any, *, what: str) -> dict[str, Options]:
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        raise UserError(f"{what} must be tables of options by name, not {value!r}")
    return dict(value)


def _from_toml(value: Any) -> Any:
    return None if value == "none" else value


def write_study(study: Study) -> str:
    """The study as TOML text with every task's options written out; `parse_study` reads it back."""
    settings = {name: getattr(study, name) for name in _SETTINGS}
    tasks = {task: asdict(config) for task, config in study.tasks.items()}
    bounds = {task: list(pair) for task, pair in study.bounds.items()}
    return dump_toml({**settings, "tasks": tasks, "arms": study.arms, "bounds": bounds})


def with_total_steps(study: Study, total_steps: int) -> Study:
    """The study with another budget on every task."""
    tasks = {task: config.replace(total_steps=total_steps) for task, config in study.tasks.items()}
    return replace(study, tasks=tasks)
