"""The page tells the report's numbers, works in a browser, asks for nothing, and stays small."""

import base64
import fcntl
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter

from crosscope.data.errors import OutputError
from crosscope.report.charts import charts_of
from crosscope.report.page import Thumbnails, View, _coded, _round_up, write_page
from crosscope.report.tables import at, finite, verdict

Grey = Float[np.ndarray, "y x"]
METHODS = ("input", "output", "target", "bicubic", "lucy_richardson", "nnls", "twin", "repeat")
BLUR = {"input": 6.0, "bicubic": 6.0, "lucy_richardson": 3.4, "nnls": 3.2, "twin": 2.8}
NASTY = """</script><b>bold</b><script>alert("1")</script> "' onload='x' {{ 7 * 6 }}"""


# --- a report that could be one -------------------------------------------------------------------


def images_of(seed: int, side: int, methods: tuple[str, ...] = METHODS) -> dict[str, Grey]:
    """Return spots on a background, blurred as each method would, with photon noise."""
    rng = np.random.default_rng(seed)
    spots = np.zeros((side, side))
    n = side * side // 500
    spots[tuple(rng.integers(0, side, (2, n)))] = rng.uniform(3e4, 3e5, n)
    return {
        method: rng.poisson(gaussian_filter(spots, BLUR.get(method, 2.4)) + 200).astype(np.float64)
        for method in methods
    }


def view_of(
    name: str,
    rank: str,
    side: int,
    methods: tuple[str, ...] = METHODS,
    layers: Mapping[str, UInt8[np.ndarray, "y x"]] | None = None,
) -> View:
    images = images_of(len(rank), side, methods)
    return View(name, rank, images, images["output"] - images["target"], 32.5, layers or {})


def interval(median: float, spread: float, n: int, **more: Any) -> dict[str, Any]:
    return {"median": median, "low": median - spread, "high": median + spread, "n": n} | more


def field_of(name: str, rng: np.random.Generator) -> dict[str, Any]:
    def numbers(middle: float, spread: float) -> dict[str, float | None]:
        found = {m: float(rng.normal(middle, spread)) for m in METHODS}
        return found | {"target": None}

    return {
        "name": name,
        "size_px": [1024, 1024],
        "seen": None,
        "psnr_db": numbers(30, 2),
        "ssim": numbers(0.9, 0.02),
        "ms_ssim": numbers(0.95, 0.02),
        "nrmse": numbers(0.1, 0.01),
        "pearson": numbers(0.97, 0.01),
        "squirrel_rsp": numbers(0.95, 0.01),
        "trust": {
            "domain": "inside",
            "verdict": "good",
            "distance": 0.4,
            "signal": True,
            "chi_square": float(rng.normal(1.4, 0.1)),
            "rsp": 0.99,
            "rse": 2.6,
            "beyond_share": 0.002,
            "reasons": [],
        },
        "inside_interval": 0.912,
        "reasons": [],
    }


def report_of(n: int = 12, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = [f"cell {i}" for i in range(n)]
    agreement: dict[str, Any] = {
        figure: {
            m: interval(base + (step * (m == "output")), abs(step) / 8, n)
            | (
                {"median": None, "low": None, "high": None, "reason": itself}
                if m == "target"
                else {}
            )
            for m in METHODS
        }
        for figure, base, step in (
            ("psnr_db", 24.6, 8.5),
            ("ssim", 0.81, 0.13),
            ("ms_ssim", 0.9, 0.08),
            ("nrmse", 0.2, -0.12),
            ("pearson", 0.93, 0.06),
        )
        for itself in ["it is the reference itself"]
    }
    widths = {"input": 290.0, "output": 112.0, "target": 111.8, "lucy_richardson": 187.0}
    fwhm = {m: interval(widths.get(m, 290.0), 4, n, sd=17.5) for m in METHODS}
    fwhm["repeat"] = {"median": None, "sd": None, "low": None, "high": None, "n": 0}
    fwhm["repeat"]["reason"] = "no spot could be fitted"
    spots: dict[str, Any] = {
        m: {"f1": 0.97, "missed": 0.031, "invented": 0.004, "split": 0.01, "merged": 0.02}
        for m in METHODS
    }
    none: dict[str, Any] = {
        "f1": None,
        "missed": None,
        "invented": None,
        "split": None,
        "merged": None,
    }
    spots["bicubic"] = none | {"reason": "no spot was found"}
    frequency = np.linspace(0.1, 15, 150)
    steps = np.arange(0, 20001, 400)
    position = np.arange(-600, 601, 32.5)
    pair = np.exp(-(((position - 90) / 60) ** 2)) + np.exp(-(((position + 90) / 60) ** 2))
    report = {
        "summary": {
            "reference": "truth",
            "data_range": "span of the reference, field by field",
            "intensity": "each method fitted to the reference by a gain and an offset",
            "kernel_fwhm_nm": 268.4,
            "pixel_size_nm": 32.5,
            "fwhm_nm": fwhm,
            **agreement,
            "psnr_plain_db": {m: interval(30.2, 0.6, n) for m in ("output", "twin")},
            "sample": agreement,
            "background": agreement,
            "spots": spots,
            "resolved_nm": {m: None if m == "input" else 140.0 for m in METHODS},
            "resolved_reason": {
                m: "no pair was seen as two" if m == "input" else None for m in METHODS
            },
            "frc_nm": {m: interval(130.2, 3, n) for m in ("output", "target")},
            "decorrelation_nm": {m: interval(128.0, 3, n) for m in METHODS},
            "squirrel_rsp": {m: interval(0.95, 0.004, n) for m in METHODS},
            "squirrel_rse": {m: interval(41.2, 2, n) for m in METHODS},
            "notes": ["The network was trained on another camera."],
            "trust": {
                "fields": n,
                "verdicts": {"good": n - 1, "doubtful": 1, "refused": 0},
                "domains": {"inside": n, "near": 0, "outside": 0},
                "sisters": 1,
                "spots": {
                    "invented": {"n": 8, "above_3_sd": 0.75, "above_5_sd": 0.5},
                    "missed": {"n": 0, "above_3_sd": None, "above_5_sd": None}
                    | {"reason": "no spot was missed"},
                    "right": {"n": 2000, "above_3_sd": 0.01, "above_5_sd": 0.002},
                },
            },
        },
        "fields": [field_of(name, rng) for name in names],
        "certificate": {
            "claim": {
                "claimed_resolution_nm": 126.6,
                "sentence": "Two points are told apart from 127 nm on.",
                "allowed": 0.05,
                "trials": 300,
                "separations_nm": [50.6, 76.0, 101.3, 126.6, 151.9, 177.2],
                "p_merged": [1.0, 0.9, 0.4, 0.01, 0.0, 0.0],
                "p_merged_upper": [1.0, 0.93, 0.45, 0.03, 0.01, 0.01],
                "p_split": 0.003,
                "p_split_upper": 0.01,
                "false_objects_per_field": 0.25,
                "most_false_objects": 2,
                "empty_fields": 12,
            },
            "claim_reason": None,
            "quantities": {"slope": 1.0, "r2": 0.99, "sentence": "Brightness follows."},
            "quantities_reason": None,
            "intervals": {"lambda": 1.2, "alpha": 0.1, "delta": 0.1, "fields": 30},
        },
        "widths_nm": {m: rng.normal(widths.get(m, 290), 20, 300).tolist() for m in METHODS},
        "profiles": [
            {
                "field": "cell 1",
                "separation_nm": 180.0,
                "position_nm": position.tolist(),
                "values": {
                    "input": (900 * np.exp(-((position / 220) ** 2))).tolist(),
                    "output": (2000 * pair).tolist(),
                    "target": (2100 * pair).tolist(),
                },
                "peak_distance_nm": {"input": None, "output": 178.2, "target": 181.0},
                "reason": {"input": "one peak only"},
            }
        ],
        "spectra": {
            "frequency_per_um": frequency.tolist(),
            "power": {m: (1e6 * np.exp(-frequency / 2) + 10).tolist() for m in METHODS},
        },
        "frc_curves": {
            "frequency_per_um": frequency.tolist(),
            "correlation": {
                m: np.exp(-((frequency / 6) ** 2)).tolist() for m in ("output", "target")
            },
        },
        "training": {
            "log": [
                {
                    "step": int(step),
                    "seconds": float(step),
                    "phase": "warm" if step < 8000 else "adversarial",
                    "losses": {"mse": 0.01},
                    "shares": {"adversarial": 0.1 * (step >= 8000), "mse": 0.6, "ssim": 0.3},
                    "validation": {
                        "loss": 0.02 + np.exp(-step / 2000),
                        "mse": 0.01,
                        "ssim": 0.9,
                        "psnr_db": 33 - 8 * np.exp(-step / 3000),
                    },
                }
                for step in steps
            ],
            "kept_step": 16000,
            "twin_step": 7600,
        },
        "learning_curve": [
            {"pairs": p, "psnr_db": 28 + np.log(p), "loss": 0.2 / p} for p in (2, 5, 10, 20, 50)
        ],
    } | changes
    return json.loads(json.dumps(report))  # as a caller has it: no list is in two places


BARE: dict[str, Any] = dict.fromkeys(("profiles", "spectra", "training", "learning_curve"))
BARE |= {"frc_curves": None, "widths_nm": {}}  # charts take their time


def write(folder: Path, report: dict[str, Any], *, views: int = 3, side: int = 160) -> Path:
    path = folder / "report.html"
    names = [field["name"] for field in report["fields"]]
    shown = [
        view_of(name, rank, side)
        for name, rank in zip(names[:views], ("best", "median", "worst"), strict=False)
    ]
    small = [Thumbnails(n, images_of(3, 128, ("input", "output", "target"))) for n in names[views:]]
    write_page(path, report, shown, small)
    return path


# --- a browser, through its pipe ------------------------------------------------------------------

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
in_browser = pytest.mark.skipif(not CHROMIUM, reason="no browser is at hand")
KEY_CODES = {"Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
LAUNCH += "os.execv(sys.argv[3], sys.argv[3:])"


class Browser:
    """Speaks the DevTools protocol: JSON, each message ended by a zero byte."""

    def __init__(self, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.session: dict[str, str] = {}
        self.rest, self.count = b"", 0
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
        options += ["--disable-background-networking", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, theirs), CHROMIUM, *options],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out, *theirs):
            os.close(end)
        self.ours_in, self.ours_out = ours_in, ours_out

    def close(self) -> None:
        with suppress(OSError):
            self.tell("Browser.close")
        self.process.wait(20)
        os.close(self.ours_in)
        os.close(self.ours_out)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert select.select([self.ours_in], [], [], 60)[0], "the browser says nothing"
            got = os.read(self.ours_in, 1 << 20)
            assert got, "the browser went away"
            self.rest += got
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.session}
        os.write(self.ours_out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, *, width: int = 1280) -> None:
        self.session = {}
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        attached = self.tell("Target.attachToTarget", targetId=target, flatten=True)
        self.session, self.events = {"sessionId": attached["sessionId"]}, []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.tell(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        self.tell("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        if self.js("!!document.querySelector('canvas')"):
            self.wait("document.querySelector('canvas').getAttribute('aria-busy') === 'false'")

    def js(self, code: str) -> Any:
        answer = self.tell(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        for _ in range(600):
            if self.js(condition):
                return
            time.sleep(0.05)
        raise AssertionError(condition)

    def set(self, name: str, value: str | int, event: str) -> None:
        """Give a control a value as a user would, and wait for the canvas."""
        where = f"document.getElementById({name!r})"
        self.js(f"{where}.value = {value!r}; {where}.dispatchEvent(new Event({event!r})); 0")
        self.wait("document.querySelector('canvas').getAttribute('aria-busy') === 'false'")

    def key(self, key: str) -> None:
        known = {"windowsVirtualKeyCode": KEY_CODES[key]} if key in KEY_CODES else {}
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, **known)

    def canvas(self) -> tuple[float, float, float, float]:
        """Return where the canvas is in the window: left, top, width and height."""
        return tuple(
            self.js(
                "document.querySelector('canvas').scrollIntoView({ block: 'center' });"
                "(b => [b.left, b.top, b.width, b.height])"
                "(document.querySelector('canvas').getBoundingClientRect())"
            )
        )

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the mouse at the first place, move through the others, release at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*places, places[-1]], strict=True):
            mouse = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1}
            self.tell("Input.dispatchMouseEvent", clickCount=1, **mouse)

    def touch(self, *places: list[tuple[float, float]]) -> None:
        """Put fingers down at the first places, move them through the others, and lift them."""
        kinds = ["touchStart", *["touchMove"] * (len(places) - 1)]
        for kind, fingers in zip(kinds, places, strict=True):
            points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(fingers)]
            self.tell("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.tell("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def wheel(self, x: float, y: float, delta: float, *, sideways: float = 0) -> None:
        turned = {"type": "mouseWheel", "x": x, "y": y, "deltaX": sideways, "deltaY": delta}
        self.tell("Input.dispatchMouseEvent", **turned)

    def pixels(self) -> Any:
        """Return the canvas: (y, x, 3) array."""
        uri = self.js("document.querySelector('canvas').toDataURL()")
        image = Pillow.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        return np.asarray(image.convert("RGB")).astype(int)

    def picture(self, path: Path) -> None:
        size = self.tell("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.tell("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        self.js("0")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [str(event) for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        self.js("0")
        sent = (e for e in self.events if e.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page"), report_of())


# --- in the browser -------------------------------------------------------------------------------


@in_browser
def test_the_slider_swipes_between_two_images(browser: Browser, page: Path) -> None:
    browser.open(page)
    middle = browser.pixels()
    width = middle.shape[1]
    browser.set("swipe", 1000, "input")
    left = browser.pixels()
    browser.set("swipe", 0, "input")
    right = browser.pixels()
    rows = slice(60, -60)  # without the labels and the bar
    for place, of in ((slice(10, width // 2 - 20), left), (slice(width // 2 + 20, -20), right)):
        np.testing.assert_array_equal(middle[rows, place], of[rows, place])
    assert np.abs(left - right)[rows].mean() > 5
    assert not browser.complaints()


SWIPE = "+document.getElementById('swipe').value"
SEEN = "({ x: state.x, y: state.y, zoom: state.zoom, swipe: state.swipe })"


@in_browser
def test_mouse_finger_and_keys_move_the_line(browser: Browser, page: Path) -> None:
    browser.open(page)
    left, top, width, height = browser.canvas()
    y = top + height / 3
    for start, end in ((0.5, 0.25), (0.25, 0.8)):
        browser.drag((left + start * width, y), (left + 0.6 * width, y), (left + end * width, y))
        assert browser.js(SEEN)["swipe"] == pytest.approx(end, abs=2 / width)
    browser.drag((left + 0.8 * width, y), (left + width + 50, y))
    assert browser.js(SEEN)["swipe"] == 1  # and no further
    browser.touch([(left + width - 3, y)], [(left + 0.5 * width, y)], [(left + 0.4 * width, y)])
    assert browser.js(SEEN)["swipe"] == pytest.approx(0.4, abs=2 / width)
    # near is far enough for a finger
    browser.touch([(left + 0.4 * width + 20, y)], [(left + 0.7 * width, y)])
    assert browser.js(SEEN)["swipe"] == pytest.approx(0.7, abs=2 / width)
    browser.js("document.getElementById('swipe').focus()")
    before = browser.pixels()
    for _ in range(5):
        browser.key("ArrowLeft")
    after = browser.js(SEEN)
    assert after["swipe"] == pytest.approx(0.65, abs=0.006)
    assert browser.js(SWIPE) == pytest.approx(1000 * after["swipe"])
    line = np.flatnonzero((browser.pixels()[100] != before[100]).any(axis=-1)) / before.shape[1]
    assert line.min() > 0.64
    assert line.max() < 0.71
    assert (after["x"], after["y"]) == (80, 80)  # the image has not moved
    said = browser.js("document.getElementById('swipe').getAttribute('aria-valuetext')")
    assert said == "Input 65 %"
    assert not browser.complaints()


@in_browser
def test_the_wheel_zooms_about_the_cursor(browser: Browser, page: Path) -> None:
    browser.open(page)
    left, top, width, height = browser.canvas()
    x, y = round(left + 0.7 * width), round(top + 0.4 * height)  # events have whole px
    text = "document.getElementById('under').textContent"

    def under() -> tuple[float, float]:
        """Return what lies under the cursor, in px of the image: y, x."""
        now = browser.js(SEEN)
        middle = (left + width / 2, top + height / 2)
        return now["y"] + (y - middle[1]) / now["zoom"], now["x"] + (x - middle[0]) / now["zoom"]

    place, zooms = under(), [browser.js(SEEN)["zoom"]]
    assert zooms == [pytest.approx(width / 160)]
    browser.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    said = browser.js(text)
    assert said.startswith(f"y {int(place[0])}, x {int(place[1])} px: Input about ")
    for turns, delta in ((6, -100), (4, 100)):
        for _ in range(turns):
            browser.wheel(x, y, delta)
            zooms.append(browser.js(SEEN)["zoom"])
            assert under() == pytest.approx(place, abs=1e-6)
    steps = np.array([1.2] * 6 + [1 / 1.2] * 4)
    assert np.divide(zooms[1:], zooms[:-1]) == pytest.approx(steps)
    browser.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.js(text) == said
    # the half of a notch zooms by half, a sideways turn not at all
    browser.wheel(x, y, -50)
    assert browser.js(SEEN)["zoom"] == pytest.approx(zooms[-1] * 1.2**0.5)
    browser.wheel(x, y, 0, sideways=80)
    assert browser.js(SEEN)["zoom"] == pytest.approx(zooms[-1] * 1.2**0.5)
    # out again: the whole field, and then it is the page that scrolls
    scrolled = browser.js("scrollY")
    for _ in range(3):  # two and a half notches
        browser.wheel(x, y, 100)
    assert browser.js(SEEN)["zoom"] == pytest.approx(width / 160)
    assert (browser.js(SEEN)["y"], browser.js(SEEN)["x"]) == (80, 80)
    assert browser.js("scrollY") == scrolled
    browser.wheel(x, y, 100)
    browser.wait(f"scrollY > {scrolled}")
    for _ in range(40):
        browser.js("document.getElementById('in').click()")
    assert browser.js(SEEN)["zoom"] == 40  # and no closer
    assert not browser.complaints()


@in_browser
def test_the_mouse_drags_the_image_but_not_out_of_sight(browser: Browser, page: Path) -> None:
    browser.open(page)
    left, top, width, height = browser.canvas()
    start = (left + 0.2 * width, top + 0.3 * height)
    browser.drag(start, (start[0] + 90, start[1] + 50))
    assert browser.js(SEEN) | {"zoom": 0} == {"x": 80, "y": 80, "zoom": 0, "swipe": 0.5}  # whole
    for _ in range(3):
        browser.js("document.getElementById('in').click()")
    browser.set("swipe", 0, "input")
    before, seen = browser.js(SEEN), browser.pixels()
    browser.drag(start, (start[0] + 40, start[1] - 10), (start[0] + 90, start[1] + 50))
    after, moved = browser.js(SEEN), browser.pixels()
    assert before["x"] - after["x"] == pytest.approx(90 / before["zoom"])
    assert before["y"] - after["y"] == pytest.approx(50 / before["zoom"])
    rows, columns = slice(60, 300), slice(60, 400)  # without the labels, the line and the bar
    at = np.s_[rows.start + 50 : rows.stop + 50, columns.start + 90 : columns.stop + 90]
    assert np.abs(moved[at] - seen[rows, columns]).mean() < 1
    assert np.abs(moved[at] - seen[at]).mean() > 5
    browser.tell("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
    assert browser.js(SEEN) == after  # the button is up
    for dx, dy, corner in ((5000, 5000, 0), (-5000, -5000, 1)):
        browser.drag(start, (start[0] + dx, start[1] + dy))
        now = browser.js(SEEN)
        half = width / now["zoom"] / 2
        assert (now["x"], now["y"]) == pytest.approx((abs(160 * corner - half),) * 2, abs=0.01)
    assert not browser.complaints()


@in_browser
def test_two_fingers_zoom_about_their_middle(browser: Browser, page: Path) -> None:
    browser.open(page, width=400)
    left, top, width, height = browser.canvas()
    x, y = left + 0.3 * width, top + 0.5 * height
    fingers = [[(x - d, y), (x + d, y)] for d in (20, 25, 30, 40)]
    browser.touch(fingers[0][:1], *fingers)
    now = browser.js(SEEN)
    assert now["zoom"] == pytest.approx(2 * width / 160, rel=0.02)
    assert now["x"] + (x - left - width / 2) / now["zoom"] == pytest.approx(0.3 * 160, abs=1)
    assert now["swipe"] == 0.5
    browser.touch([(x, y)], [(x + 30, y)], [(x + 40, y)])  # one finger moves it
    assert browser.js(SEEN)["x"] == pytest.approx(max(now["x"] - 40 / now["zoom"], 40), abs=0.1)
    assert browser.js(SEEN)["zoom"] == now["zoom"]
    assert not browser.complaints()


@in_browser
def test_the_keyboard_reaches_every_control(browser: Browser, page: Path) -> None:
    browser.open(page)
    wanted = browser.js(
        "window.wanted = [...document.querySelectorAll("
        "'a[href], button, input, select, canvas, [tabindex]')]; wanted.length"
    )
    assert wanted > 30
    for n in range(wanted):
        browser.key("Tab")
        found = browser.js(
            "(now => { const s = getComputedStyle(now), b = now.getBoundingClientRect(); return ["
            "wanted.indexOf(now), now.matches(':focus-visible') && s.outlineStyle, "
            "parseFloat(s.outlineWidth), s.outlineColor, b.bottom > 0 && b.top < innerHeight, "
            "now.id || now.textContent.trim()] })(document.activeElement)"
        )
        assert found[:5] == [n, "solid", 2, "rgb(10, 88, 184)", True], found  # in order, and seen
    browser.key("Tab")
    assert browser.js("document.activeElement === document.body")  # and out again
    # they do what they say
    order = "[...document.getElementById('right').options].map(option => option.value)"
    assert browser.js(order) == list(METHODS)
    browser.js("document.getElementById('right').focus()")
    browser.key("ArrowDown")
    assert browser.js("document.getElementById('right').value") == "target"
    white = browser.js("document.getElementById('white').focus(); state.white")
    browser.key("ArrowRight")
    assert browser.js("state.white") > white


@in_browser
def test_grey_values_come_back_on_the_canvas(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.set("swipe", 0, "input")
    data = json.loads(browser.js("document.getElementById('viewer-data').textContent"))
    view, truth = data["views"][0], images_of(len("best"), 160)["output"]
    zoom = browser.js("document.querySelector('canvas').width") / 160
    shown = browser.pixels()[..., 0]
    at_middle = (np.arange(30, 120) * zoom + zoom / 2).astype(int)
    grey = view["black"] + shown[np.ix_(at_middle, at_middle)] / 255 * (
        view["white"] - view["black"]
    )
    expected = np.clip(truth[30:120, 30:120], view["black"], view["white"])
    assert np.abs(grey - expected).max() < 0.015 * (view["white"] - view["black"])


@in_browser
def test_contrast_colours_error_and_fields_change_the_picture(browser: Browser, page: Path) -> None:
    browser.open(page)
    seen = [browser.pixels()]
    for name, value, event in (
        ("white", 300, "input"),
        ("black", 100, "input"),
        ("map", "viridis", "change"),
        ("right", "lucy_richardson", "change"),
        ("field", "2", "change"),
    ):
        browser.set(name, value, event)
        seen.append(browser.pixels())
    browser.js("document.getElementById('error').click()")
    browser.wait("document.querySelector('canvas').getAttribute('aria-busy') === 'false'")
    seen.append(browser.pixels())
    for before, after in pairwise(seen):
        assert np.abs(before - after).max() > 20
    limit = browser.js("document.getElementById('above').textContent")
    view = json.loads(browser.js("document.getElementById('viewer-data').textContent"))["views"][2]
    assert float(limit) == pytest.approx(view["error"]["limit"])
    assert browser.js("document.getElementById('right').value") == "lucy_richardson"
    assert not browser.complaints()


@in_browser
def test_the_trust_map_and_what_is_sure_are_layers_to_swipe_to(
    browser: Browser, tmp_path: Path
) -> None:
    trust, sure = np.zeros((2, 160, 160), np.uint8)
    trust[:, 80:], sure[:53], sure[53:106] = 120, 2, 1
    layers = {"trust": trust, "sure": sure}
    page = tmp_path / "report.html"
    shown = [view_of("cell 0", "best", 160, layers=layers), view_of("cell 1", "worst", 160)]
    write_page(page, report_of(2, **BARE), shown, [])
    browser.open(page)
    options = "[...document.getElementById('right').options].map(option => option.value)"
    assert browser.js(options)[-2:] == ["trust", "sure"]
    hidden = "['legend-trust', 'legend-sure'].map(id => document.getElementById(id).hidden)"
    assert browser.js(hidden) == [True, True]
    browser.set("swipe", 0, "input")
    browser.set("right", "trust", "change")
    pixels = browser.pixels()
    height, width = pixels.shape[:2]
    assert browser.js(hidden) == [False, True]
    assert pixels[height // 2, width // 4].max() < 10
    assert pixels[height // 2, 3 * width // 4].min() > 150  # 12 SD: as bright as 10
    left, top, wide, high = browser.canvas()
    place = {"x": left + 0.75 * wide, "y": top + 0.5 * high}
    browser.tell("Input.dispatchMouseEvent", type="mouseMoved", **place)
    assert "Trust map 12 SD" in browser.js("document.getElementById('under').textContent")
    browser.set("right", "sure", "change")
    assert browser.js(hidden) == [True, False]
    pixels = browser.pixels()
    colours = [pixels[int(share * height), width // 2].tolist() for share in (0.2, 0.5, 0.8)]
    assert colours == [[86, 180, 233], [230, 159, 0], [0, 0, 0]]
    browser.tell("Input.dispatchMouseEvent", type="mouseMoved", **place)
    assert "What is sure uncertain" in browser.js("document.getElementById('under').textContent")
    browser.set("field", "1", "change")  # has neither: the output is shown again
    assert browser.js("document.getElementById('right').value") in METHODS
    assert browser.js(hidden) == [True, True]
    assert not browser.complaints()


@in_browser
def test_keys_zoom_and_move_and_the_bar_follows(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.js("document.querySelector('canvas').focus()")
    whole = browser.pixels()
    browser.key("+")
    zoomed = browser.pixels()
    percent = "document.getElementById('caption').textContent.match(/(\\d+) %/)[1]"
    at_one = browser.js(percent)
    browser.key("ArrowRight")
    moved = browser.pixels()
    for one, other in ((whole, zoomed), (zoomed, moved)):
        assert np.abs(one - other)[60:-60].mean() > 3
    browser.key("0")
    np.testing.assert_array_equal(browser.pixels(), whole)
    assert float(at_one) == pytest.approx(1.5 * float(browser.js(percent)), rel=0.01)
    browser.js("document.getElementById('in').click()")
    np.testing.assert_array_equal(browser.pixels(), zoomed)


@in_browser
def test_numbers_in_the_browser_are_those_of_the_json(browser: Browser, page: Path) -> None:
    browser.open(page)
    report = json.loads(browser.js("document.getElementById('report').textContent"))
    assert report == finite(report_of())
    found = browser.js(
        "[...document.querySelectorAll('[data-path]')]"
        ".map(e => [e.dataset.path, e.dataset.value, e.textContent])"
    )
    assert len(found) > 300
    for path, value, text in found:
        number = at(report, path)
        assert value == ("" if number is None else json.dumps(number)), path
        shown = {"–": None}.get(text, text.replace("−", "-"))
        if number is None or shown is None:
            assert shown is number, path
        else:
            percent = path.startswith("summary.spots") and not path.endswith("f1")
            percent |= path.endswith(("_share", "inside_interval", "above_3_sd", "above_5_sd"))
            assert float(shown) == pytest.approx(100 * number if percent else number, abs=0.5), path
    body = browser.js("document.body.innerText")
    assert not re.search(r"\b(NaN|undefined|null|None|nan)\b", body)


@in_browser
def test_headings_sort(browser: Browser, tmp_path: Path) -> None:
    report = report_of(6, **BARE)
    report["fields"][2]["psnr_db"]["output"] = None
    browser.open(write(tmp_path, report))
    column = next(
        n
        for n, text in enumerate(
            browser.js("[...document.querySelectorAll('.fields th')].map(h => h.innerText)")
        )
        if text.startswith("Output: PSNR")
    )
    rows = "[...document.querySelectorAll('.fields tbody tr')]"
    order = f"{rows}.map(row => row.cells[{column}].dataset.value)"
    values = [field["psnr_db"]["output"] for field in report["fields"]]
    numbers = sorted(value for value in values if value is not None)
    for expected in (numbers, numbers[::-1]):
        browser.js(
            f"document.querySelectorAll('.fields th')[{column}].querySelector('button').click()"
        )
        assert browser.js(order) == [*map(json.dumps, expected), ""]


@in_browser
def test_nothing_leaves_the_page_and_nothing_complains(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert {url.split(":")[0] for url in browser.requests()} <= {"file", "data"}
    assert [url for url in browser.requests() if url.startswith("file")] == [page.as_uri()]
    refused = "new Promise(done => { const image = new Image(); image.onerror = () => done(true); "
    assert browser.js(refused + "image.src = 'https://example.org/x.png'; })")  # the policy holds
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())
    failed = [e["params"] for e in browser.events if e["method"] == "Network.loadingFailed"]
    assert [failure["blockedReason"] for failure in failed] == ["csp"]


@in_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    assert browser.js("document.documentElement.scrollWidth") <= width
    unnamed = "[...document.querySelectorAll('input, select')].filter(e => !e.labels.length).length"
    assert browser.js(unnamed) == 0
    if folder := os.environ.get("CROSSCOPE_PICTURES"):
        browser.picture(Path(folder) / f"{width}.png")
        printed = browser.tell("Page.printToPDF", printBackground=True)
        (Path(folder) / f"{width}.pdf").write_bytes(base64.b64decode(printed["data"]))


@in_browser
@pytest.mark.parametrize(
    ("media", "width"),  # A4 without its margins is 718 px wide
    [("screen", 1280), ("screen", 768), ("screen", 375), ("print", 718)],
)
def test_charts_are_read_easily(browser: Browser, page: Path, media: str, width: int) -> None:
    browser.open(page, width=width)
    browser.tell("Emulation.setEmulatedMedia", media=media)
    boxes = "(b => [b.left, b.top, b.right, b.bottom])(e.getBoundingClientRect())"
    charts = browser.js(
        f"[...document.querySelectorAll('svg')].map(e => [{boxes}, [...e.querySelectorAll('text')]"
        f".map(e => [e.textContent, {boxes}, "
        "(m => Math.hypot(m.a, m.b))(e.getScreenCTM()) * "
        "parseFloat(getComputedStyle(e).fontSize)])])"
    )
    assert len(charts) == 9
    for (left, top, right, bottom), texts in charts:
        assert len(texts) > 8
        for words, box, height in texts:
            assert height > 9, words
            assert left - 1 <= box[0] <= box[2] <= right + 1, words
            assert top - 1 <= box[1] <= box[3] <= bottom + 1, words
        for n, (words, one, _) in enumerate(texts):
            for others, two, _ in texts[:n]:
                apart = one[2] <= two[0] + 1 or two[2] <= one[0] + 1
                apart |= one[3] <= two[1] + 4 or two[3] <= one[1] + 4  # boxes are higher than text
                assert apart, (words, others)
    if media == "print":
        assert browser.js("document.documentElement.scrollWidth") <= width
    browser.tell("Emulation.setEmulatedMedia", media="")


@in_browser
def test_names_are_text(browser: Browser, tmp_path: Path) -> None:
    report = report_of(4, **BARE | {"profiles": report_of(4)["profiles"][:1]})
    report["fields"][0]["name"] = report["fields"][3]["name"] = report["profiles"][0]["field"] = (
        NASTY
    )
    report["fields"][3]["reasons"] = report["summary"]["notes"] = [NASTY]
    report["summary"]["fwhm_nm"]["repeat"]["reason"] = NASTY
    browser.open(write(tmp_path, report))
    assert not browser.complaints()
    assert browser.js("[...document.querySelectorAll('b')].length") == 0
    assert browser.js("document.scripts.length") == 4
    assert browser.js("document.querySelector('.fields tbody bdi').textContent") == NASTY
    assert browser.js("document.getElementById('field').options[0].text").startswith(
        "best: </script>"
    )
    assert "<b>" in browser.js("document.querySelector('.notes').textContent")


# --- the file -------------------------------------------------------------------------------------


class Parsed(HTMLParser):
    """Elements in order, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.hidden = "", False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden &= tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.text += "" if self.hidden else data


def test_the_markup_is_sound_and_asks_for_nothing(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    parsed = Parsed(html)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "xlink:href", "src"):
            if name in attributes:
                assert attributes[name].startswith("data:image/" if tag == "img" else "#")
                assert tag == "img" or attributes[name][1:] in ids
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert not re.search(r"https?:|@import", re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html))
    policy = next(a["content"] for tag, a in parsed.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_verdict_is_in_plain_words() -> None:
    report = report_of()
    assert verdict(report).replace("\xa0", " ") == (
        "On 12 fields, isolated spots are 112 nm wide in the output, 112 nm in the target and "
        "290 nm in the input; the output's PSNR is 8.5 dB above that of the best "
        "deconvolution (Lucy-Richardson); 0.4 % of the output's spots are invented and "
        "3.1 % of the reference's spots are missed."
    )
    report["summary"]["psnr_db"]["nnls"]["median"] = 34.1
    assert "1.0 dB below that of the best deconvolution (NNLS)" in verdict(report).replace(
        "\xa0", " "
    )


def test_what_is_missing_is_left_out_and_said(tmp_path: Path) -> None:
    nothing = {"median": None, "low": None, "high": None, "n": 0, "reason": "too few spots"}
    report: dict[str, Any] = {
        "summary": {"reference": "target", "fwhm_nm": {"output": nothing | {"sd": None}}},
        "fields": [
            {"name": "a", "size_px": [9, 9], "seen": "training", "psnr_db": {}, "reasons": []}
        ],
        "frc_curves": None,
        "learning_curve": None,
    }
    write_page(tmp_path / "a.html", report, [], [])
    text = " ".join(Parsed((tmp_path / "a.html").read_text()).text.split())
    for words in (
        "On 1 field nothing could be measured",
        "the target image, with its own noise",
        "Not new to the network: 1 of 1 fields.",
        "too few spots",
        "Fourier ring correlation: it needs two independent images of a field.",
        "Learning curve: the training was not repeated with fewer pairs.",
        "Training: the model holds no log of it.",
        "Profiles across close pairs: none was found",
        "No field is embedded at full resolution.",
    ):
        assert words in text, words
    assert not re.search(r"\b(nan|None|null|undefined)\b", text)


def words_of(report: dict[str, Any], title: str) -> str:
    (chart,) = (chart for chart in charts_of(report) if chart.title == title)
    return chart.words


def test_the_learning_curve_is_of_psnr_and_says_where_it_deceives() -> None:
    report = report_of(2, **BARE | {"learning_curve": report_of(2)["learning_curve"]})
    words = words_of(report, "Learning curve")
    for told in ("PSNR", "against the target, noise included", "at the noise", "few steps"):
        assert told in words
    for point in report["learning_curve"]:
        del point["psnr_db"]
    assert words_of(report, "Learning curve") == "it holds no PSNR"


def test_the_page_tells_of_the_discriminator_and_of_alarms() -> None:
    report = report_of(2, **BARE | {"training": report_of(2)["training"]})
    title, log = "Shares of the loss", report["training"]["log"]
    assert words_of(report, title) == "What pulled the generator, step by step."
    log[-1]["losses"] |= {"discriminator": 1.37, "discriminator_accuracy": 0.553}
    for line in log:
        line["alarms"] = []
    words = words_of(report, title)
    assert "55 % of the discriminator's answers were right, its loss was 1.37;" in words
    assert words.endswith("No alarm rang.")
    log[30]["alarms"] = [{"name": "collapse"}, {"name": "checkerboard"}]
    told = "Rolled back after alarms: collapse at step 12000; checkerboard at step 12000."
    assert words_of(report, title).endswith(told)
    log[30]["alarms"] = [3, {}]  # a damaged log
    log[-1]["losses"] |= {"discriminator": "x"}
    assert "Rolled back" not in words_of(report, title)
    assert "compare within a phase" in words_of(report, "Validation loss")


@pytest.mark.parametrize("reasons", [["too dark"], {"psnr_db": {"output": "too dark"}}])
def test_a_field_says_why_it_lacks_a_number(tmp_path: Path, reasons: Any) -> None:
    report = report_of(3, **BARE)
    report["fields"][1]["psnr_db"]["output"] = None
    report["fields"][1]["reasons"] = reasons
    report["summary"]["psnr_db"]["twin"]["n"] = 2
    parsed = Parsed(write(tmp_path, report, views=1).read_text())
    assert parsed.text.count("too dark") == 1
    assert [a["title"] for _, a in parsed.elements if a.get("title") == "too dark"] == ["too dark"]
    assert parsed.text.count("n = 2") == 1


def test_trust_is_told_field_by_field_and_for_the_model(tmp_path: Path) -> None:
    report = report_of(3, **BARE)
    doubtful = {
        "verdict": "doubtful",
        "reasons": ["blurred again, 3.0% of it contradict the input"],
    }
    report["fields"][1]["trust"] |= doubtful
    report["fields"][2] |= {"trust": None, "trust_reason": "it holds pixels without a value"}
    html = write(tmp_path, report, views=1).read_text()
    text = " ".join(Parsed(html).text.split())
    for told in (
        "doubtful",
        "3.0% of it contradict the input",
        "it holds pixels without a value",
        "Two points are told apart from 127 nm on.",
        "Brightness follows.",
        "calibrated on 30",
        "no spot was missed",
    ):
        assert told in text, told
    assert "P(merged | two)" in html


@pytest.mark.parametrize("certificate", [None, {"claim": None, "quantities": None}])
def test_a_model_that_claims_nothing_says_why(certificate: Any, tmp_path: Path) -> None:
    report = report_of(2, **BARE)
    report["summary"] |= {"trust": None, "trust_reason": "nobody knows it"}
    for field in report["fields"]:
        field |= {"trust": None, "trust_reason": "nobody knows it"}
    report["certificate"] = certificate
    report["certificate_reason"] = "it has none" if certificate is None else None
    if certificate:
        intervals = {"lambda": None, "reason": "4 fields are too few"}
        certificate |= {"claim_reason": "no claim", "quantities_reason": "no points"}
        certificate |= {"intervals": intervals}
    text = " ".join(Parsed(write(tmp_path, report, views=1).read_text()).text.split())
    assert "No field was judged: nobody knows it." in text
    told = ["it has none"] if certificate is None else ["no claim", "no points", "4 fields"]
    assert all(each in text for each in told)


def test_a_number_that_is_none_never_becomes_nan(tmp_path: Path) -> None:
    report = report_of(3, **BARE)
    report["summary"]["psnr_db"]["output"]["median"] = float("nan")
    path = write(tmp_path, report, views=1)
    held = re.search(r'id="report">(.*?)</script>', path.read_text(), re.DOTALL)
    assert held
    assert json.loads(held[1])["summary"]["psnr_db"]["output"]["median"] is None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_codes_keep_grey_values(scale: float) -> None:
    image = scale * images_of(0, 100)["target"]
    image[3, 4] = 1e6 * scale  # a hot pixel costs the others nothing
    coded = _coded(image)
    uri = coded["src"].split(",")[1]
    codes = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(uri)))).astype(float)
    back = coded["low"] + (codes / 255) ** 2 * (coded["high"] - coded["low"])
    inside = (image > coded["low"]) & (image < coded["high"])
    assert inside.mean() > 0.99
    noise = np.sqrt(scale * np.maximum(image, scale))
    assert (np.abs(back - image)[inside] / noise[inside]).max() < 1.5


@pytest.mark.parametrize("image", [np.zeros((9, 9)), np.full((9, 9), 7.0), np.full((9, 9), -1e5)])
def test_constant_images_are_drawn(image: Grey, tmp_path: Path) -> None:
    view = View("a", "best", {"input": image, "output": image}, image * 0, 30.0)
    report = report_of(1, **BARE)
    report["fields"][0]["name"] = "a"
    write_page(tmp_path / "a.html", report, [view], [])
    assert "NaN" not in (tmp_path / "a.html").read_text()


def test_limits_have_two_digits() -> None:
    assert [_round_up(v) for v in (0.0, 1.0, 123.0, 0.0991)] == [1.0, 1.0, 130.0, 0.1]


def test_the_page_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_page(tmp_path / "a.html", {"summary": {}}, [], [])
    assert not list(tmp_path.iterdir())
    write(tmp_path, report_of(2, **BARE), views=1)
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path, report_of(2, **BARE), views=1)


def test_a_hundred_fields_stay_under_25_mb(tmp_path: Path) -> None:
    report = report_of(100, **BARE)
    methods = ("input", "output", "target", "lucy_richardson")
    views = [
        view_of(f"cell {n}", rank, 1024, methods)
        for n, rank in enumerate(("best", "median", "worst"))
    ]
    small = images_of(0, 128, ("input", "output", "target"))
    thumbnails = [
        Thumbnails(f"cell {n}", {m: np.roll(i, n, axis=1) for m, i in small.items()})
        for n in range(3, 100)
    ]
    write_page(tmp_path / "report.html", report, views, thumbnails)
    size = (tmp_path / "report.html").stat().st_size
    assert 10e6 < size < 24e6, size  # charts are 0.2 MB
