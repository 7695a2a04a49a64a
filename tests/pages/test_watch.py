"""The page of runs while they train: what is new appears by itself, what is damaged is said."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import PAYLOAD, canvases, note
from tests.helpers import PROBE, extended, flags

from surefoot.cli.main import main
from surefoot.errors import UserError
from surefoot.local_server import LocalServer, Response, listen, risk
from surefoot.pages import watch
from surefoot.pages.frame import macro, template
from surefoot.pages.watch import WatchPage

OTHERS = "192.0.2.1"  # an address of nobody's, for documentation


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch") / "one"
    assert main(["train", PROBE, *flags(), "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A folder with a run that goes on."""
    shutil.copytree(trained, tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "policy.json").unlink()
    return tmp_path / "runs"


@pytest.fixture
def served(runs: Path) -> Iterator[str]:
    with LocalServer(WatchPage([runs])) as server:
        yield server.url


def answered(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def news(page: WatchPage, **known: str) -> dict[str, Any] | None:
    answer = page("/news.json", known)
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body) if answer.status == 200 else None


def add_line(run: Path, **numbers: float | None) -> None:
    """One more iteration, as the last one but for these numbers."""
    file = run / "metrics.jsonl"
    row = json.loads(file.read_text().splitlines()[-1])
    row |= {"step": row["step"] + 64, "iteration": row["iteration"] + 1, **numbers}
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


@pytest.mark.extended
def test_what_is_new_comes_as_numbers_and_a_new_run_as_charts(runs: Path) -> None:
    page = WatchPage([runs])
    first = news(page)
    assert first is not None
    known = {"seen": first["seen"], "charts": first["charts"]}
    assert news(page, **known) is None  # nothing is new
    add_line(runs / "one", **{"rollout/episode_return": 4321.0})
    second = news(page, **known)
    assert second is not None
    assert second["columns"][0]["y0"][-1] == 4321.0
    assert "items" not in second
    shutil.copytree(runs / "one", runs / "two")
    third = news(page, seen=second["seen"], charts=second["charts"])
    assert third is not None
    assert len(third["items"]) == len(second["columns"])
    assert "two" in third["html"]["status"]


def test_a_page_asks_less_often_where_looking_takes_long_but_not_for_a_new_chart(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def takes(seconds: float, of: str) -> None:
        work = getattr(watch, of)

        def longer(*args: Any, **options: Any) -> Any:
            nonlocal now
            now += seconds
            return work(*args, **options)

        monkeypatch.setattr(watch, of, longer)

    monkeypatch.setattr(watch.time, "thread_time", lambda: now)
    page = WatchPage([runs])
    takes(10.0, "_drawn")
    assert news(page)["wait_s"] == 2.0
    takes(1.0, "charts_of")
    assert news(page)["wait_s"] == 20.0


def test_templates_are_compiled_once() -> None:
    assert template("runs.html.jinja") is template("runs.html.jinja")
    assert macro("parts.html.jinja", "left_out", 1, 2) != macro(
        "parts.html.jinja", "left_out", 1, 3
    )


def test_half_a_line_is_waited_for_and_a_file_that_was_written_anew_is_read_anew(
    runs: Path,
) -> None:
    page, file = WatchPage([runs]), runs / "one" / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])

    def rows() -> int:
        (view,), _ = page.views()
        assert view.faults == []
        return len(view.rows)

    count = whole.count(b"\n")
    assert rows() == count - 1
    with file.open("ab") as lines:
        lines.write(whole[-20:])
    assert rows() == count
    anew = runs / "anew"
    anew.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    anew.replace(file)  # as a resumed run does
    assert rows() == 2


DAMAGE = {
    "config.toml": ["task = ", "\udcff", "[" * 5000, 'task = "t"\ngamma = "<b>"'],
    "meta.json": ["{}", "[]", "{" * 5000, '{"versions": 3}'],
    "metrics.jsonl": ["{\n{}\n", "9" * 300_000, "\0\0\n", '{"step": -1}\n'],
    "crash/report.json": ["{}", "\udcff"],
    "best/step-000000000064/evaluation.json": ["{}", '{"step": "<b>", "eval/episode_return": []}'],
}


@pytest.mark.parametrize(
    "name", [name if name == "metrics.jsonl" else extended(name) for name in DAMAGE]
)
def test_damaged_files_are_said_and_end_nothing(name: str, runs: Path) -> None:
    page, file = WatchPage([runs]), runs / "one" / name
    for text in DAMAGE[name]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        os.utime(file, (2e9, 2e9))
        (view,), _ = page.views()
        assert any(file.name in fault for fault in view.faults), (text[:30], view.faults)
        assert page("/", {}).status == 200
    file.unlink()
    file.mkdir()  # a folder in its place
    assert page("/", {}).status == 200


def test_only_this_machine_is_served_by_the_name_of_this_machine(served: str) -> None:
    port = int(served.rsplit(":", 1)[1].strip("/"))
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "[::1]", "localhost:9"):
        assert answered(served + "nothing", Host=host)[0] == 404
    for host in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example"):
        assert answered(served, Host=host)[0] == 403
    with socket.socket() as other:  # not bound to every interface
        other.settimeout(2)
        assert other.connect_ex((own_address(), port)) != 0


def own_address() -> str:
    """An address of this machine that others see; one on which nothing listens where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((OTHERS, 9))  # sends nothing
            return asking.getsockname()[0]
        except OSError:
            return "127.0.0.2"


def test_a_port_in_use_and_a_host_of_others_are_one_error(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    def error(*words: str) -> str:
        assert main(["watch", str(runs), "--no-browser", *words]) == 2
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith("surefoot: error")
        return said

    with listen() as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in error("--port", str(port))
    said = error("--host", OTHERS)
    assert "no password" in said
    assert "no address of this machine" in said
    assert "from 1 to 65535" in error("--port", "70000")
    assert main(["watch", f"{runs}x"]) == 2
    assert "did you mean 'runs'" in capsys.readouterr().err


def test_what_others_reach_is_said() -> None:
    assert risk("127.0.0.1") == risk("localhost") == risk("::1") == ""
    assert "no password" in risk("0.0.0.0")


def test_parts_of_a_file_are_served_as_players_ask_for_them(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(bytes(range(100)))
    with LocalServer(lambda *_: Response(file, "video/mp4")) as server:
        for asked, first, last in (
            ("bytes=10-19", 10, 19),
            ("bytes=90-", 90, 99),
            ("bytes=-5", 95, 99),
            ("bytes=90-500", 90, 99),
        ):
            status, body = answered(server.url, Range=asked)
            assert (status, body) == (206, bytes(range(first, last + 1)))
        for odd in ("bytes=-", "bytes=5-2", "bytes=1-2,4-5", "lines=1-2", "bytes=200-"):
            assert answered(server.url, Range=odd) == (200, file.read_bytes())


def test_a_fault_of_ours_is_an_answer_and_no_end() -> None:
    def answer(path: str, _: Any) -> Response:
        if path == "/odd":
            raise UserError("<b>odd</b>")
        return Response(b"fine")

    with LocalServer(answer) as server:
        assert answered(server.url + "odd") == (500, b"UserError: <b>odd</b>\n")
        assert answered(server.url) == (200, b"fine")


def shown(browser: Any, url: str, width: int) -> tuple[Any, list[str]]:
    """The live page once its charts are drawn; what the console said, and what came from elsewhere."""
    tab, said = browser.new_context(viewport={"width": width, "height": 900}).new_page(), []
    tab.on("console", lambda message: note(message, said))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda r: r.url.startswith(url) or said.append(r.url))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.goto(url)
    tab.wait_for_function("Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle)")
    return tab, said


@pytest.mark.parametrize("width", [390, 1440])
def test_a_new_line_of_metrics_appears_without_a_reload(
    browser, runs: Path, served: str, width: int
) -> None:
    tab, said = shown(browser, served, width)
    tab.evaluate("window.same = true")
    assert all(chart["painted"] > 1500 for chart in canvases(tab))
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    before = tab.locator("[data-part=status] [data-label=steps]").inner_text()
    add_line(runs / "one", **{"rollout/episode_return": 4321.0, "reward/new": 1.0})
    tab.wait_for_function(
        """() => Bokeh.documents.some(chart => [...chart.all_models].some(
          model => model.type === "ColumnDataSource" && [...model.data.y0 ?? []].includes(4321)))"""
    )
    assert tab.locator("[data-part=status] [data-label=steps]").inner_text() != before
    tab.get_by_text("reward/new").first.wait_for()  # a chart that was not there
    (runs / "one" / "videos").mkdir()
    (runs / "one" / "videos" / "step-1.mp4").write_bytes(b"no video")
    tab.locator("video").wait_for()
    assert tab.evaluate("window.same")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_nothing_that_a_run_is_made_of_runs(browser, runs: Path, bypass_csp: bool) -> None:
    run = runs / PAYLOAD.replace("/", "")
    (runs / "one").rename(run)
    config = (run / "config.toml").read_text().replace(f'"{PROBE}"', json.dumps(PAYLOAD))
    (run / "config.toml").write_text(config)
    (run / "videos").mkdir()
    (run / "videos" / f"{PAYLOAD.replace('/', '')}.mp4").write_bytes(b"")
    (run / "crash").mkdir()
    (run / "crash" / "report.json").write_text(json.dumps({"error": PAYLOAD}))
    with LocalServer(WatchPage([runs])) as server:
        context = browser.new_context(bypass_csp=bypass_csp)
        tab, said = context.new_page(), []
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda r: r.url.startswith(server.url) or said.append(r.url))
        tab.goto(server.url)
        tab.wait_for_function("Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle)")
        add_line(run, **{f"reward/{PAYLOAD}": 1.0, f"measure/{PAYLOAD}": 1.0})
        tab.locator("figcaption", has_text="measure/").wait_for()
        assert PAYLOAD in tab.locator("body").inner_text()
        assert tab.locator("img").count() == 0
        assert tab.evaluate("typeof ran") == "undefined"
        assert said == []
