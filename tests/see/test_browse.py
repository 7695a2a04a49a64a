"""`surefoot play` in a real browser: the robot moves, sliders steer, nothing comes from elsewhere."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import TINY

import surefoot

PATIENCE_MS = 120_000  # a busy machine draws a frame in seconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-background-networking", "--disable-sync"]
    options += ["--disable-component-update", "--no-first-run", "--disable-quic"]
    # WebGL without a graphics card
    options += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def playing(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """The command playing a run, and the address that it prints."""
    run = tmp_path_factory.mktemp("runs") / "run"
    config = TINY.replace(total_steps=128)
    surefoot.train("robot:ArmReach", config=config, run_dir=run, progress=False)
    command = [sys.executable, "-m", "surefoot", "play", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found is not None, line
        yield process, found[0]
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "Traceback" not in rest


def listening(pid: int) -> list[str]:
    """Addresses, as the kernel writes them, that a process listens at."""
    own = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    inodes = {name.removeprefix("socket:[").removesuffix("]") for name in own}
    found = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = row.split()
            if words[3] == "0A" and words[9] in inodes:
                found.append(words[1].split(":")[0])
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's tables")
def test_it_listens_on_loopback_alone(playing: tuple[Any, str]) -> None:
    addresses = listening(playing[0].pid)
    assert addresses
    assert set(addresses) == {"0100007F"}  # 127.0.0.1, of tcp


@pytest.mark.parametrize("width", [1440, 390])
def test_the_robot_moves_and_sliders_change_its_command(
    browser: Any, playing: tuple[Any, str], width: int
) -> None:
    said: list[str] = []
    asked: list[str] = []
    with contextlib.closing(browser.new_context(viewport={"width": width, "height": 844})) as page:
        tab = page.new_page()
        tab.set_default_timeout(PATIENCE_MS)
        tab.on("console", lambda message: message.type == "error" and said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("websocket", lambda socket: asked.append(socket.url))
        with tab.expect_console_message(lambda said: "State WebSocket connected" in said.text):
            tab.goto(playing[1])
        look_at(tab, width)
        steer(tab)
    assert not said
    assert all(re.match(r"(http|ws|blob:http)://127\.0\.0\.1:\d+/", address) for address in asked)
    assert any(address.endswith("/panel") for address in asked)


def look_at(tab: Any, width: int) -> None:
    """The robot is there and moves, the page fits, terms and the critic's value are told."""
    from playwright.sync_api import expect

    expect(tab.locator("#episode")).to_have_text(re.compile(r"\d"), timeout=PATIENCE_MS)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    viewer = tab.locator("#viewer").bounding_box()
    assert viewer["width"] > 0.5 * width
    assert viewer["height"] > 300
    first = tab.screenshot(clip=viewer)
    step = tab.inner_text("#steps")
    expect(tab.locator("#steps")).not_to_have_text(step, timeout=PATIENCE_MS)
    assert tab.screenshot(clip=viewer) != first
    names = tab.locator("#terms th").all_inner_texts()
    assert {"reward", "value (critic)", "near", "speed"} <= set(names)
    widths = "[...document.querySelectorAll('.bar rect')].map(x => Number(x.getAttribute('width')))"
    assert max(tab.evaluate(widths)) > 1


def steer(tab: Any) -> None:
    """A slider moved to its end, a pause, a step, a reset, another speed: the simulation answers to each."""
    from playwright.sync_api import expect

    def has(place: str, text: Any) -> None:
        expect(tab.locator(place)).to_have_text(text, timeout=PATIENCE_MS)

    tab.locator("#command-0").focus()
    tab.keyboard.press("End")
    expect(tab.locator("#release")).to_be_enabled(timeout=PATIENCE_MS)
    has("#sliders label:first-child output", tab.locator("#command-0").get_attribute("max"))
    tab.click("#pause")
    has("#pause", "Resume")
    has("#pace", "paused")
    held = tab.inner_text("#steps")
    tab.click("#step")
    expect(tab.locator("#steps")).not_to_have_text(held, timeout=PATIENCE_MS)
    tab.click("#release")
    expect(tab.locator("#release")).to_be_disabled(timeout=PATIENCE_MS)
    tab.click("#reset")
    tab.select_option("#speed", "2")
    tab.click("#pause")
    has("#pause", "Pause")
    expect(tab.locator("#speed")).to_have_value("2", timeout=PATIENCE_MS)
