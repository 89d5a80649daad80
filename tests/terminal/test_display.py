"""What is shown while a command works, and its table."""

import json

import pytest

from crosscope.terminal import display
from crosscope.terminal.display import progress_of, say, show_json, summary_table, trust_line


def test_off_a_terminal_progress_is_plain_lines_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 5.0, 30.0, 31.0, 40.0])
    monkeypatch.setattr("crosscope.terminal.display.time.monotonic", lambda: next(seconds))
    with progress_of("train") as tell:
        tell(0.1, "5 steps/s")
        tell(0.25, "6 steps/s")
        tell(0.3)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "train: 25%, about 90 s left. 6 steps/s\ntrain: done in 40.0 s.\n"


def test_on_a_terminal_progress_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display.errors, "_force_terminal", True)
    with progress_of("train") as tell:
        tell(1.0, "5 steps/s")
    said = capsys.readouterr()
    assert said.out == ""
    assert "100%" in said.err
    assert "5 steps/s" in said.err


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "[bold]a:smile:" + 200 * "b" + "[/x].tif: does not exist"
    say(sentence)
    assert capsys.readouterr().err == sentence + "\n"


def test_json_is_one_line_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        show_json({"a": float("nan")})


def test_what_was_not_measured_is_a_dash() -> None:
    nothing = {"median": None, "sd": None, "f1": None, "missed": None, "invented": None}
    figures = {name: {"input": nothing} for name in ("psnr_db", "ssim", "fwhm_nm", "spots")}
    table = summary_table({"reference": "target", "resolved_nm": {"input": None}, **figures})
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["input", "- ± -", *["-"] * 6]


def test_trust_is_one_line() -> None:
    verdicts = {"good": 10, "doubtful": 1, "refused": 1}
    trust = {"fields": 12, "verdicts": verdicts}
    claim = {"claimed_resolution_nm": 126.6}
    report = {"summary": {"trust": trust}, "certificate": {"claim": claim}}
    judged = "trust: 10 good, 1 doubtful, 1 refused of 12 fields"
    assert trust_line(report) == f"{judged}; two points are told apart from 127 nm on"
    claim["claimed_resolution_nm"] = None  # type: ignore[assignment]
    assert trust_line(report) == f"{judged}; no resolution can be claimed"
    assert trust_line(report | {"certificate": None}) == judged
    unknown = {"summary": {"trust": None, "trust_reason": "nobody knows"}}
    assert trust_line(unknown) == "trust: not judged, nobody knows"
