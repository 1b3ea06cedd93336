"""What a person sees while runs go on: time left, and the progress of a run in another process."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from contextlib import redirect_stdout
from io import StringIO

import pytest
from rich.color import ColorSystem
from rich.console import Console

from src import console
from src.harmless import json_text
from src.report.terminal import Terminal
from src.runs import isolation
from src.runs.isolation import Outcome, call
from src.runs.parent import ParentRun
from src.runs.records import Status
from src.sweep import run_isolated
from tests.conftest import TINY


def on_a_terminal(width=120):
    terminal = Terminal()
    terminal.console = Console(file=StringIO(), force_terminal=True, width=width, soft_wrap=True, highlight=False)
    return terminal


EVIL = "A\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m \x9b2J\x7f\rB"  # renames the window, clears it, overwrites the line
SHOWN = r"A\x1b]0;title\x07\x1b[2Jred \x9b2J\x7f\x0dB"


def test_text_of_data_cannot_steer_the_terminal(monkeypatch):
    """What is printed, and what rich shows; rich's own colours pass."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in range(2):  # a second time changes nothing
        console.tolerate_any_encoding()
    print(EVIL, "Ä\tnext\r\nline", file=sys.stderr)
    sys.stdout.writelines(["\r 7 %", "\x1b[A\x1b[A", EVIL, "\n"])
    terminal = Terminal()
    terminal.console._force_terminal, terminal.console._color_system = True, ColorSystem.STANDARD
    terminal.warning(EVIL)
    terminal.examples([{"question": EVIL, "exact_match": 1.0, "predicted": EVIL, "answers": [EVIL]}])
    terminal.result({"quality/f1": 50.0}, EVIL)
    with redirect_stdout(sys.stdout):
        print(EVIL)
    stream.flush()
    written = stream.buffer.getvalue().decode()
    lines = written.split("\n")
    assert lines[:3] == [f"{SHOWN} Ä\tnext\r", "line", f"\r 7 %\x1b[A\x1b[A{SHOWN}"]
    by_rich = SHOWN.replace(r"\x07", "").replace(r"\x0d", "")  # rich drops these
    assert lines[3] == f"\x1b[1;33mWARNING\x1b[0m {by_rich}"
    assert lines[4:6] == [
        f"\x1b[32mright\x1b[0m  {by_rich}",
        f"       predicted \x1b[1m{by_rich}\x1b[0m  true {by_rich}",
    ]
    assert by_rich in lines[8]
    meant = re.sub(r"\x1b\[[\d;]*m|\r 7 %\x1b\[A\x1b\[A|\r\n", "", written)
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", meant) == []


def test_a_progress_bar_moves_and_what_is_printed_meanwhile_is_harmless(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    console.tolerate_any_encoding()
    with Terminal() as terminal:
        terminal.step(1, 8, 2.0, 0.0)
        print(EVIL.replace("\r", ""))
        terminal.step(2, 8, 2.0, 0.0)
    stream.flush()
    written = stream.buffer.getvalue().decode()
    assert "\r\x1b[2K" in written, "the bar is not drawn anew in its place"
    assert r"\x9b2J\x7fB" in written
    assert "\x1b]0" not in written and "\x1b[2J" not in written and "\x9b" not in written


def test_json_that_is_printed_keeps_its_values():
    assert json_text({"a": [EVIL, "Ä"]}, indent=None).isprintable()
    assert json.loads(json_text({"a": [EVIL, "Ä"]}, indent=2)) == {"a": [EVIL, "Ä"]}


def test_a_run_off_a_terminal_tells_the_time_left_with_its_quarters(monkeypatch, capsys):
    clock = iter([100.0 + 3 * step for step in range(80)])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    terminal = Terminal()
    for step in range(1, 81):
        terminal.step(step, 80, 2.5, 0.0 if step < 4 else 12.25)
    assert capsys.readouterr().out.splitlines() == [
        "step 20/80  loss 2.500  12.2 examples/s  about 3 min left",
        "step 40/80  loss 2.500  12.2 examples/s  about 2 min left",
        "step 60/80  loss 2.500  12.2 examples/s  about 60 s left",
        "step 80/80  loss 2.500  12.2 examples/s",
    ]


def test_progress_is_left_in_a_file_once_a_second(monkeypatch, tmp_path):
    clock = iter([100.0, 100.4, 100.9, 101.1, 102.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    terminal = Terminal(progress_file=tmp_path / "run.progress")
    seen = []
    for step in range(1, 5):
        terminal.step(step, 100, 2.0, 0.0)
        seen.append(terminal.progress_file.read_text().split("  ")[0])
    assert seen == ["step 1/100", "step 1/100", "step 1/100", "step 4/100"]
    Terminal(progress_file=tmp_path / "no folder" / "run.progress").step(1, 2, 2.0, 0.0)  # is no reason to end


def leave_progress(files):
    progress, looked = files
    progress.write_text("step 3/16  loss 4.123")
    while not looked.exists():
        time.sleep(0.01)
    return "done"


def test_the_progress_of_another_process_is_shown_while_it_works(server, tmp_path):
    terminal, progress, looked = on_a_terminal(), tmp_path / "run.progress", tmp_path / "looked"
    progress.write_text("of an earlier attempt")
    with terminal.following(progress) as look:
        assert not progress.exists()
        look()  # nothing there yet

        def look_once():
            look()
            if progress.exists():
                looked.touch()

        assert call(leave_progress, (progress, looked), tmp_path / "log", look_once).value == "done"
    shown = terminal.console.file.getvalue()
    assert "        step 3/16  loss 4.123" in shown and "earlier" not in shown
    assert shown.rindex("\x1b[2K") > shown.rindex("step 3/16"), "the line stays"
    assert not progress.exists()


def test_off_a_terminal_no_progress_of_a_run_is_followed(tmp_path):
    with Terminal().following(tmp_path / "run.progress") as look:
        assert look is None


@pytest.mark.parametrize(("launcher", "followed"), [("basic", True), ("joblib", False)])
def test_a_sweep_on_a_terminal_shows_the_run_under_way(configure, tmp_path, monkeypatch, capsys, launcher, followed):
    """The run itself is in this process, so that the moment of the look does not depend on the clock."""
    looks = []

    def in_this_process(work, config, output, look):
        looks.append(look)
        value = work(config)
        if look is not None:
            look()
        return Outcome(value=value)

    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich takes what it writes to for a terminal
    monkeypatch.setattr(isolation, "call", in_this_process)
    parent = ParentRun.begin(
        configure(f"tracking.folder={tmp_path}").tracking, None, "sweep", "0", "command", planned=1, fresh=False
    )
    parent.started(0)
    store = [f"tracking.folder={tmp_path}", f"sweep.parent={parent.run_id}"]
    (tmp_path / "output").mkdir()
    assert run_isolated(configure(*TINY, "train.epochs=1", *store), 0, launcher) is not None
    assert [look is not None for look in looks] == [followed]
    shown = capsys.readouterr().out
    assert ("\x1b[2K        step " in shown or "\x1b[?25l        step " in shown) is followed
    assert shown.splitlines()[-2].startswith("[1/1] lora lr=0.001 epochs=1 seed=0  EM ") or followed
    assert list((tmp_path / "output").glob("*.progress")) == []
    parent.end(Status.FINISHED, [])
