"""What all pages share: style, scripts named by their fingerprints, text that is never markup."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import (
    ChoiceLoader,
    Environment,
    PackageLoader,
    StrictUndefined,
    Template,
    TemplateError,
)

from surefoot.errors import UserError
from surefoot.files import write_text
from surefoot.pages.charts import Charts, color_of
from surefoot.reading import open_file
from surefoot.training import METRICS

GENERATOR = '<meta name="generator" content="Surefoot">'  # by which a page of ours is known again
_HEAD = 2**10  # bytes of a page in which that is found


def template(name: str, package: str = "surefoot.pages") -> Template:
    """A template of a package, which may build on those that lie here; what it is given is escaped."""
    return _templates_of(package).get_template(name)


@functools.cache  # a page that is open asks every other second, and compiling takes half of one
def _templates_of(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("surefoot.pages", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Bokeh reads a chart in the order it is written in
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    environment.globals |= {"color_of": color_of, "fingerprint": _fingerprint}
    environment.globals |= {"generator": GENERATOR, "meanings": METRICS}
    return environment


def macro(file: str, name: str, *values: Any) -> str:
    """What a macro of a template makes of values, which are escaped."""
    return getattr(template(file).module, name)(*values)


def page(made_by: Template, title: str, charts: Charts, **parts: Any) -> str:
    """The template with its parts, all of which are escaped but the charts, which are data."""
    text = made_by.render(title=title, library=charts.library(), charts=charts.drawn, **parts)
    return text.encode("utf-8", "replace").decode("utf-8")  # a file's name need not be UTF-8


def write_page(file: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a page, whole or not at all, in place of nothing or of a page of ours.

    Args:
        file: where.
        text: the page.
        overwrite: in place of any other file too.

    Raises:
        ValueError: there is another file, or something that is none.
    """
    if file.is_dir():
        raise UserError(
            f"{str(file)!r} is a folder; name a file, such as {str(file / 'report.html')!r}"
        )
    if file.exists() and not overwrite and not _is_ours(file):
        raise UserError(
            f"{str(file)!r} exists and is no page of Surefoot's; choose another --output, or "
            "--overwrite to replace it"
        )
    if not file.parent.is_dir():
        raise UserError(
            f"folder {str(file.parent)!r} does not exist; make it, or choose another --output"
        )
    write_text(file, text)


def _is_ours(file: Path) -> bool:
    with open_file(file) as (content, _):
        return GENERATOR.encode() in content.read(_HEAD)


@contextlib.contextmanager
def as_written(*folders: Path) -> Iterator[None]:
    """Refuse files that are not as Surefoot writes them: text for a number, a name that is missing."""
    try:
        yield
    except UserError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        TemplateError,
    ) as e:
        names = ", ".join(repr(str(folder)) for folder in folders)
        raise UserError(f"files in {names} are not as Surefoot writes them: {e!r}") from e


def _fingerprint(script: str) -> str:
    """A script as a Content-Security-Policy names it; what it does not name does not run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
