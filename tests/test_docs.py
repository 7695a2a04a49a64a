"""The documentation holds: its Python runs, its commands parse, its links lead, its tables are true."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import json
import re
import shlex
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
from tests.helpers import described, few
from tests.mutants.catalogue import CATALOGUE

import surefoot
from surefoot.cli.arguments import read
from surefoot.cli.main import VERBS
from surefoot.cli.options import read_with_options
from surefoot.cli.presets import PRESETS, preset
from surefoot.cli.study import parse as parse_study_command
from surefoot.cli.study import plan
from surefoot.cli.train import parse
from surefoot.config import (
    SECTIONS,
    Config,
    bare,
    fixed_options,
    from_mapping,
    in_words,
    option_names,
    range_of,
)
from surefoot.config_file import to_toml
from surefoot.envs.probes import PROBES
from surefoot.services.health import RULES
from surefoot.study.plan import check
from surefoot.training import METRICS

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))
}
NOT_RUN = "<!-- not run -->"


class Block(NamedTuple):
    page: str
    line: int  # of its first line of text, counted from 1
    language: str
    text: str
    is_run: bool


def blocks_of(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = PAGES[page].splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        marked = opened > 0 and lines[opened - 1].strip() == NOT_RUN
        language = lines[opened].removeprefix("```").strip()
        yield Block(page, opened + 2, language, "\n".join(lines[opened + 1 : number]), not marked)
        opened = None
    assert opened is None, f"{page}: the block opened on line {opened} is not closed"


def blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def outside_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)


def rows_of(page: str) -> list[list[str]]:
    """The cells of every table row of a page."""
    lines = [line for line in PAGES[page].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r" \|(?= )", line.strip("|"))] for line in lines]


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# Python ---------------------------------------------------------------------------------------


@pytest.mark.extended
@pytest.mark.parametrize("page", sorted({b.page for b in blocks("python") if b.is_run}))
def test_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "snippet"}
    for block in blocks_of(page):
        if block.language == "python" and block.is_run:
            # empty lines in front, so that a traceback tells the line in the page
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(ROOT / page), "exec", dont_inherit=True), namespace)


# Commands -------------------------------------------------------------------------------------


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line of every bash block."""
    found = []
    for block in blocks("bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            found += [(block.page, part.strip()) for part in line.split("&&") if part.strip()]
    return found


def surefoot_commands() -> list[tuple[str, str]]:
    return [(page, line) for page, line in commands() if line.split()[0] == "surefoot"]


def lay_config_files(page: str, words: list[str]) -> None:
    """Write the files that a command names: the page's own TOML if it shows one, else a run's."""
    for before, name in itertools.pairwise(words):
        if before != "--config":
            continue
        shown = [b.text for b in blocks_of(page) if b.text.startswith(f"# {name}\n")]
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shown[0] if shown else to_toml(Config(), task="CartPole-v1"))


@pytest.mark.parametrize(("page", "line"), few(9, surefoot_commands()))
def test_a_command_is_understood(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, verb, *arguments = shlex.split(line, comments=True)
    if verb.startswith("-"):
        assert verb in ("--help", "--version")
        return
    assert verb in VERBS
    if verb == "train":
        lay_config_files(page, arguments)
        task, *_ = parse(arguments)
        assert task
    elif verb == "study":
        Path("benchmarks").symlink_to(ROOT / "benchmarks")  # as in a clone
        study, _ = plan(parse_study_command(arguments))
        assert check(study).tasks
    else:
        module = importlib.import_module(f"surefoot.cli.{verb.replace('-', '_')}")
        understand = read_with_options if verb == "bench" else read
        understand(module.Arguments, verb, arguments)


def test_commands_are_found() -> None:
    verbs = {line.split()[1] for _, line in surefoot_commands()}
    assert {"train", "eval", "tasks"} <= verbs


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {line.split()[1] for _, line in commands() if line.startswith("make ")}
    for page in PAGES:
        named |= {c.split()[1] for c in in_code(outside_blocks(page)) if c.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


# Links ----------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", PAGES[page], flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_blocks(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target} does not exist"
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f"{page}: {target}"


# Tables ---------------------------------------------------------------------------------------


LINKS = {
    "docs/mathematics.md section": "[mathematics](mathematics.md), section",
    "docs/overlap.md": "[overlap](overlap.md)",
    "docs/checkpoints.md": "[checkpoints](checkpoints.md)",
    "docs/follow.md": "[follow](follow.md)",
    "docs/play.md": "[looking at a policy](play.md)",
    "privileged_*": "`privileged_*`",
    "measured": "[measured](results.md)",
}


def tables_of_options() -> str:
    """The sections of docs/options.md as the fields say them; copy them there after a change."""
    text = ""
    for section in SECTIONS:
        title, _, about = (section.__doc__ or "").partition(": ")
        text += f"### {title}\n\n{about[0].upper()}{about[1:]}\n\n"
        text += "| option | default | range | meaning | source |\n|---|---|---|---|---|\n"
        hints, texts = get_type_hints(section, include_extras=True), described(section)
        for field in dataclasses.fields(section):
            hint, interval = hints[field.name], range_of(hints[field.name])
            kind = bare(hint)
            one_of = get_args(kind) if get_origin(kind) is Literal else ()
            within = ", ".join(f"`{x}`" for x in ([in_words(interval)] if interval else one_of))
            value = written(field.name)
            words = list(texts[field.name])
            for plain, linked in LINKS.items():
                words = [word.replace(plain, linked) for word in words]
            text += f"| `{field.name}` | `{value}` | {within} | {words[0]} | {words[1]} |\n"
        text += "\n"
    return text


def written(option: str) -> str:
    """An option's default as config.toml writes it."""
    lines = dict(line.split(" = ", 1) for line in to_toml(Config(), task="x").splitlines())
    return lines[option]


def test_the_tables_of_options_are_the_fields() -> None:
    page = PAGES["docs/options.md"]
    begins = page.index(f"### {(SECTIONS[0].__doc__ or '').partition(':')[0]}\n")
    shown = page[begins : page.index("## What goes together")]
    assert shown == tables_of_options()


def test_the_table_of_options_that_stay_is_the_fields() -> None:
    rows = [row for row in rows_of("docs/going-on.md") if row[0].startswith("`")]
    assert {name: why for names, why in rows for name in in_code(names)} == fixed_options()


def test_presets_are_shown_as_they_are() -> None:
    shown = {
        block.text.splitlines()[0].removeprefix("# preset "): tomllib.loads(block.text)
        for block in blocks("toml")
        if block.text.startswith("# preset ")
    }
    assert set(shown) == set(PRESETS)
    for name, options in shown.items():
        assert from_mapping(options) == preset(name)
        assert all(getattr(Config(), option) != value for option, value in options.items())


def test_the_table_of_metrics_is_the_code() -> None:
    rows = [row for row in rows_of("docs/run-folder.md") if len(row) == 2]
    shown = {row[0].strip("`"): row[1] for row in rows}
    assert {name: shown.get(name) for name in METRICS} == METRICS


def test_the_table_of_health_is_the_rules() -> None:
    shown = [row for row in rows_of("docs/health.md") if row[0] != "rule"]
    assert shown == [[rule.name, rule.says, rule.cause, rule.remedy] for rule in RULES]


def test_names_of_other_libraries_lead_to_options() -> None:
    rows = [row for row in rows_of("docs/coming-from.md") if len(row) == 6 and row[0] != "SB3"]
    named = [name for row in rows for name in in_code(row[-1])]
    assert len(named) >= 20
    assert set(named) <= set(option_names())


def test_probes_are_told_with_what_they_teach() -> None:
    rows = [row for row in rows_of("docs/environments.md") if len(row) == 3]
    shown = {row[0].strip("`"): row[2] for row in rows}
    assert {name: shown.get(name) for name in PROBES} == {
        name: probe.teaches for name, probe in PROBES.items()
    }


def test_dependencies_are_told_with_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {dependency.split(">=")[0] for dependency in project["dependencies"]}
    reasons = {row[0]: row[1] for row in rows_of("README.md") if len(row) == 2}
    assert names <= {name for name, reason in reasons.items() if reason}


# Names ----------------------------------------------------------------------------------------


def row_of_arm(arm: str, found: dict[str, Any], digits: int) -> list[str]:
    """What a page says of an arm: mean, IQM, difference, verdict, probability of improvement."""
    mean, iqm = found["mean"], found["iqm"]["estimate"]
    numbers = [f"{mean[x]:.{digits}f}" for x in ("estimate", "low", "high")]
    row = [arm, "{} [{}, {}]".format(*numbers), f"{iqm:.{digits}f}"]
    if "verdict" not in found:
        return [*row, "", "", ""]
    shares = [f"{found['relative'][x]:+.0%}" for x in ("estimate", "low", "high")]
    chance = found["probability_of_improvement"]["estimate"]
    return [*row, "{} [{}, {}]".format(*shares), found["verdict"], f"{chance:.2f}"]


@pytest.mark.parametrize("study", ["implementation-matters", "clipping"])
def test_tables_of_studies_are_their_results(study: str) -> None:
    page = rows_of("docs/is-clipping-working.md")
    results = json.loads((ROOT / f"benchmarks/results/{study}.json").read_text(encoding="utf-8"))
    for task, arms in results["tasks"].items():
        digits = 0 if max(arm["mean"]["estimate"] for arm in arms.values()) > 100 else 1
        wanted = [row_of_arm(name, found, digits) for name, found in arms.items()]
        heads = [k for k, row in enumerate(page) if row[:2] == [task, "mean"]]
        assert wanted in [[row[:6] for row in page[k + 1 : k + 1 + len(arms)]] for k in heads], task


def test_the_table_of_spikes_is_its_results() -> None:
    results = json.loads((ROOT / "benchmarks/results/spikes.json").read_text(encoding="utf-8"))
    runs = [arm["runs"] for arm in results.values()]
    cells = [
        [
            f"{statistics.median(x):.3g} [{min(x):.3g}, {max(x):.3g}]"
            for x in ([run[name] for run in of_arm] for of_arm in runs)
        ]
        for name in runs[0][0]
    ]
    page = rows_of("docs/is-clipping-working.md")
    head = page.index(["", *results])
    assert [row[1:] for row in page[head + 1 : head + 1 + len(cells)]] == cells


def test_tests_that_are_named_exist() -> None:
    files = [p.read_text(encoding="utf-8") for p in ROOT.glob("tests/**/test_*.py")]
    defined = {name for text in files for name in re.findall(r"(?m)^def (test_\w+)", text)}
    for page, least in (("docs/mathematics.md", 40), ("docs/silent-bugs.md", 80)):
        named = {c for c in in_code(outside_blocks(page)) if c.startswith("test_")}
        assert len(named) > least
        assert named <= defined, sorted(named - defined)


def test_every_silent_bug_has_its_row_and_its_mutants() -> None:
    rows = [row for row in rows_of("docs/silent-bugs.md") if row[0].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(1, 96))
    count = Counter(mutant.line for mutant in CATALOGUE)
    assert {int(row[0]): int(row[2] or 0) for row in rows} == {n: count[n] for n in range(1, 96)}


def test_every_mutant_changes_the_source_as_it_is() -> None:
    names = {f"{mutant.line}: {mutant.name}" for mutant in CATALOGUE}
    assert len(names) == len(CATALOGUE)
    for mutant in CATALOGUE:
        text = (ROOT / "src/surefoot" / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, mutant.name
        ast.parse(text.replace(mutant.old, mutant.new))
        assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests)


def test_functions_that_are_named_exist() -> None:
    pattern = r"(?:surefoot\.)?(functional|update|networks)\.(\w+)\.(\w+)"
    named = {
        match.groups()
        for code in in_code(outside_blocks("docs/mathematics.md"))
        if (match := re.fullmatch(pattern, code))
    }
    assert len(named) > 10
    for floor, module, name in named:
        assert hasattr(importlib.import_module(f"surefoot.{floor}.{module}"), name), name


def test_every_surrogate_estimator_and_loss_has_its_row() -> None:
    text = PAGES["docs/mathematics.md"]
    for topic in ("surrogates", "advantages", "value_losses"):
        module = importlib.import_module(f"surefoot.functional.{topic}")
        public = [
            name
            for name in surefoot.functional.__all__
            if getattr(surefoot.functional, name) is getattr(module, name, None)
            and name not in surefoot.functional.masking.__dict__
        ]
        for name in public:
            assert re.search(rf"`(?:[\w.]+\.)?{name}`", text), f"{topic}.{name}"


def test_paths_that_are_named_exist() -> None:
    for page in PAGES:
        for code in in_code(outside_blocks(page)):
            if re.fullmatch(r"(?:src|surefoot|tests|docs)/[\w./-]+", code):
                where = ROOT / "src" / code if code.startswith("surefoot/") else ROOT / code
                assert where.exists(), f"{page}: {code}"


@pytest.mark.parametrize("file", [x.name for x in sorted((ROOT / "benchmarks").glob("*.py"))])
def test_what_a_benchmark_imports_is_there(file: str) -> None:
    for node in ast.walk(ast.parse((ROOT / "benchmarks" / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("surefoot"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert alias.name in dir(module), f"{node.module} has no {alias.name}"
