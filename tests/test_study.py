"""Human evaluation of samples: its statistics, its page in a real browser, and its results read back."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from jaxgen import data, study
from jaxgen.cli import study as command_line
from jaxgen.cli.train import execute
from jaxgen.conditions import Maybe, attributes, image, labels, optional
from jaxgen.types import Game, InputError, Model, Prediction, normal, one_shot

PAGES, PER_PAGE, SEED = 2, 6, 5
SHAPE = (6, 9, 3)
REALS, FAKES = np.random.default_rng(0).integers(0, 256, (2, 20, *SHAPE), np.uint8)
IS_FAKE = {x.tobytes(): False for x in REALS} | {x.tobytes(): True for x in FAKES}
FACTS = {"run": "</script><script>alert(1)</script>", "step": 7, "averaged": True, "loss": 0.5, "bound": "inf"}
TRUTH = study.toss(PAGES, PER_PAGE, SEED)


def pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as picture:
        assert picture.info == {}
        x = np.asarray(picture)
    return x if x.ndim == 3 else x[..., None]


def content(path: Path) -> dict:
    """The JSON inside of a page."""
    (text,) = re.findall(r'<script id="study" type="application/json">(.*?)</script>', path.read_text("utf-8"), re.S)
    return json.loads(text)


def shown(path: Path) -> np.ndarray:
    """The images of a page's study, in order."""
    return np.stack([pixels(uri) for uri in content(path)["images"]])


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("study") / "study.html"
    options = {
        "title": "Real & <generated>",
        "per_page": PER_PAGE,
        "pages": PAGES,
        "seed": SEED,
        "facts": FACTS | {"bound": np.inf},
    }
    assert study.write(file, REALS, FAKES, **options) == file
    return file


# --- statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_interval_is_wilsons(level):
    for errors, n in ((0, 1), (1, 1), (0, 10), (3, 10), (64, 128), (999, 1000)):
        expected = binomtest(errors, n).proportion_ci(level, method="wilson")
        np.testing.assert_allclose(study.wilson(errors, n, level), (expected.low, expected.high), rtol=1e-9, atol=1e-12)
        mirrored = study.wilson(n - errors, n, level)
        np.testing.assert_allclose(study.wilson(errors, n, level), (1 - mirrored[1], 1 - mirrored[0]), atol=1e-12)
    z2 = 1.959963984540054**2
    np.testing.assert_allclose(study.wilson(0, 10), (0.0, z2 / (10 + z2)), rtol=1e-12, atol=1e-15)
    for wrong in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(InputError, match="errors in"):
            study.wilson(*wrong)
    with pytest.raises(InputError, match="level"):
        study.wilson(1, 2, 1.0)


def test_every_image_is_a_fair_coin_of_its_own():
    coins = study.toss(1000, 16, 3)
    assert abs(coins.mean() - 0.5) < 5 * 0.5 / 16000**0.5
    pages = coins.sum(axis=1)  # binomial: variance 4, whose estimate from m pages deviates by about 4 sqrt(2 / m)
    assert abs(pages.var() - 4) < 5 * 4 * (2 / 1000) ** 0.5
    np.testing.assert_array_equal(coins, study.toss(1000, 16, 3))
    assert 0.4 < (coins != study.toss(1000, 16, 4)).mean() < 0.6


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_page_holds_the_images_mixed_as_the_coins_say_and_each_once(page):
    x = shown(page)
    assert [IS_FAKE[one.tobytes()] for one in x] == TRUTH.ravel().tolist()
    assert len({one.tobytes() for one in x}) == len(x) == PAGES * PER_PAGE


def test_nothing_in_the_files_of_the_images_gives_their_kind_away(tmp_path):
    flat, noise = np.full((40, *SHAPE), 9, np.uint8), np.random.default_rng(1).integers(0, 256, (40, *SHAPE), np.uint8)
    file = study.write(tmp_path / "s.html", flat, noise, pages=4, per_page=10)
    uris = content(file)["images"]
    assert len({len(uri) for uri in uris}) == 1  # though a flat image would be shorter, were it compressed
    heads = {base64.b64decode(uri.partition(",")[2])[:33] for uri in uris}  # signature and header
    assert len(heads) == 1


def test_the_page_requests_nothing_from_elsewhere_and_text_stays_text(page):
    text = page.read_text("utf-8")
    assert not re.findall(r"https?:|//\w+\.\w|<link|@import|url\(|fetch\(|XMLHttp|eval\(", text)
    assert "default-src 'none'" in text and "alert(1)</script>" not in text
    assert "<title>Real &amp; &lt;generated&gt;</title>" in text
    assert content(page)["facts"] == FACTS and content(page)["title"] == "Real & <generated>"


def test_floats_are_rounded_as_everywhere_and_one_seed_makes_one_file(tmp_path):
    options = {"per_page": 8, "pages": 2, "seed": 1}
    a, b = (tmp_path / name for name in ("a.html", "b.html"))
    study.write(a, REALS, FAKES, **options)
    study.write(b, REALS / 127.5 - 1, jnp.asarray(FAKES / 127.5 - 1), **options)
    assert a.read_bytes() == b.read_bytes()
    study.write(b, REALS, FAKES, **options | {"seed": 2})
    assert content(a)["digest"] != content(b)["digest"]
    grey = study.write(b, REALS[..., :1], FAKES[..., :1], **options)
    np.testing.assert_array_equal(shown(grey), shown(a)[..., :1])


@pytest.mark.parametrize(
    ("reals", "fakes", "options", "message"),
    [
        (REALS, FAKES[:, :5], {}, "cannot be mixed"),
        (REALS, FAKES[:2], {}, "there are 2: give more"),
        (REALS[0], FAKES, {}, r"images \[N, H, W, 1 or 3\]"),
        (REALS, FAKES.astype(np.int32), {}, "int32"),
        (REALS, np.full(FAKES.shape, np.nan), {}, "not finite"),
        (REALS, FAKES, {"pages": 0}, "pages must be at least 1"),
        (REALS, FAKES, {"seed": -1}, "seed must be"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(tmp_path, reals, fakes, options, message):
    with pytest.raises(InputError, match=message) as error:
        study.write(tmp_path / "s.html", reals, fakes, **{"pages": 2, **options})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that saves into `browser.folder`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chrome = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chrome is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options, folder = webdriver.ChromeOptions(), tmp_path_factory.mktemp("saved")
    options.binary_location = chrome
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1000,800",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.folder = folder
    yield browser
    browser.quit()


class Player:
    """A participant: reads what is on the screen, and knows the truth from the pixels alone."""

    def __init__(self, browser, page: Path):
        self.browser = browser
        browser.get(page.as_uri())

    def of(self, name: str):
        return self.browser.find_element("id", name)

    def text(self, name: str) -> str:
        return self.of(name).text

    @property
    def images(self):
        return self.browser.find_elements("css selector", "#grid button")

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser, duration=0).send_keys(*keys).perform()

    def click(self, *places: int) -> None:
        """The images at those places, with the mouse."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain, images = ActionChains(self.browser, duration=0), self.images
        for i in places:
            chain = chain.move_to_element(images[i]).click()
        chain.perform()

    def attributes(self, what: str) -> list[str]:
        """An attribute of every image, or its text ("innerText")."""
        script = "return Array.from(document.querySelectorAll('#grid button'), (b) => b.getAttribute('%s') ?? b['%s'])"
        return self.browser.execute_script(script % (what, what))

    def focus(self) -> str:
        return self.browser.switch_to.active_element.get_attribute("aria-label")

    def truth(self) -> np.ndarray:
        """Which images of this page are generated."""
        script = "return Array.from(document.querySelectorAll('#grid img'), (image) => image.src)"
        return np.array([IS_FAKE[pixels(uri).tobytes()] for uri in self.browser.execute_script(script)])

    def saved(self) -> Path:
        before = set(self.browser.folder.glob("*.json"))
        self.of("save").click()
        limit = time.monotonic() + 20
        while not (new := set(self.browser.folder.glob("*.json")) - before):
            assert time.monotonic() < limit, "nothing was saved"
            time.sleep(0.02)
        return new.pop()


def percent(p: float) -> str:
    return f"{100 * p:.1f}%"


def check_end(player: Player, errors: int) -> None:
    n, (low, high) = TRUTH.size, study.wilson(errors, TRUTH.size)
    assert player.text("score") == f"{n - errors} of {n} right"
    assert player.text("rate") == f"{percent(errors / n)} errors"
    assert f"95% confidence interval: {percent(low)} to {percent(high)}" in player.text("interval")


def test_a_perfect_player_with_a_mouse_makes_no_error(browser, page):
    player = Player(browser, page)
    assert player.text("title") == "Real & <generated>" and not player.of("play").is_displayed()
    player.of("begin").click()
    for k in range(PAGES):
        truth = player.truth()
        np.testing.assert_array_equal(truth, TRUTH[k])
        player.click(*np.flatnonzero(truth), 0, 0)  # at the end a change of mind, and back
        assert player.text("status") == f"{truth.sum()} of {PER_PAGE} marked as generated"
        assert player.attributes("aria-pressed") == ["true" if fake else "false" for fake in truth]
        player.of("next").click()
        assert player.text("status") == f"{PER_PAGE} of {PER_PAGE} right on this page"
        player.of("next").click()
    check_end(player, 0)
    summary = study.read([player.saved()])
    assert summary.pooled.error_rate == 0 and summary.pooled.hit_rate == 1 and summary.pooled.false_alarm_rate == 0
    assert summary.facts == FACTS and summary.digest == content(page)["digest"]


def marks_by_keyboard(player: Player, marks: np.ndarray, key: str) -> None:
    """From the first image on, with arrows and `key` alone."""
    from selenium.webdriver.common.keys import Keys

    assert player.focus() == f"image 1 of {PER_PAGE}, not marked"
    player.press(*[stroke for on in marks for stroke in ([key] if on else []) + [Keys.ARROW_RIGHT]])
    assert player.focus().startswith(f"image {PER_PAGE} of {PER_PAGE}, ")
    pressed = [label.endswith(", marked as generated") for label in player.attributes("aria-label")]
    assert pressed == marks.tolist()


def test_the_keyboard_alone_is_enough_and_what_is_marked_is_what_is_scored(browser, page, capsys):
    from selenium.webdriver.common.keys import Keys

    player, marks = Player(browser, page), np.random.default_rng(2).random((PAGES, PER_PAGE)) < 0.4
    right = marks == TRUTH
    player.press("n")
    for k in range(PAGES):
        assert player.text("where") == f"Page {k + 1} of {PAGES}"
        marks_by_keyboard(player, marks[k], (" ", Keys.ENTER)[k])
        player.press("n")
        assert player.text("status") == f"{right[k].sum()} of {PER_PAGE} right on this page"
        assert player.text("sofar") == f"{right[: k + 1].sum()} of {(k + 1) * PER_PAGE} right so far"
        shown_ = [text.split("\n") for text in player.attributes("innerText")]
        kinds = ["generated" if fake else "real" for fake in TRUTH[k]]
        assert shown_ == [["✓" if ok else "✗", kind] for ok, kind in zip(right[k], kinds, strict=True)]
        assert [label.split()[-1] for label in player.attributes("aria-label")] == [
            "right" if ok else "wrong" for ok in right[k]
        ]
        assert browser.switch_to.active_element == player.of("next")
        player.press(Keys.ENTER if k else "n")
    check_end(player, int((~right).sum()))
    first = player.saved()
    player.of("again").click()  # the next participant marks nothing
    assert player.of("start").is_displayed()
    player.press("n" * (1 + 2 * PAGES))
    check_end(player, int(TRUTH.sum()))
    second = player.saved()

    for file, errors in ((first, (~right).sum()), (second, TRUTH.sum())):
        result = json.loads(file.read_text())
        np.testing.assert_allclose(result["interval"], study.wilson(int(errors), TRUTH.size), rtol=1e-12)
        assert result["errors"] == errors and result["generated"] == TRUTH.tolist()
    assert json.loads(first.read_text())["marked"] == marks.tolist()
    summary = study.read([first, second])
    expected = study.Score(
        first.name,
        TRUTH.sum(),
        (TRUTH & marks).sum(),
        (~TRUTH).sum(),
        (~TRUTH & marks).sum(),
        summary.participants[0].seconds,
    )
    assert summary.participants[0] == expected and summary.participants[0].errors == (~right).sum()
    assert summary.participants[1].hits == summary.participants[1].false_alarms == 0 and 0 < summary.pooled.seconds < 60
    total = int((~right).sum() + TRUTH.sum())
    assert summary.pooled.errors == total and summary.pooled.images == 2 * TRUTH.size
    assert summary.pooled.interval == study.wilson(total, 2 * TRUTH.size)
    execute(command_line.study, ["--results", str(first), str(second)], "jaxgen study")
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 6 and table[4].split()[:4] == [
        "all",
        str(2 * TRUTH.size),
        str(total),
        f"{total / (2 * TRUTH.size):.1%}",
    ]


def test_arrows_move_by_rows_and_a_narrow_screen_needs_no_scrolling_sideways(browser, page):
    from selenium.webdriver.common.keys import Keys

    player = Player(browser, page)
    for width in (320, 1000):
        size = {"width": width, "height": 700, "deviceScaleFactor": 2, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.refresh()
        player.press("n")
        tops = [button.rect["y"] for button in player.images]
        columns = tops.count(tops[0])
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        player.press(Keys.ARROW_DOWN)
        below = columns + 1 if columns < PER_PAGE else 1
        assert player.focus().startswith(f"image {below} of")
        player.press(Keys.ARROW_UP, Keys.ARROW_LEFT)  # nothing lies before the first
        assert player.focus().startswith("image 1 of")
        player.press(Keys.END)
        assert player.focus().startswith(f"image {PER_PAGE} of")
        picture = browser.find_element("css selector", "#grid img")
        side = browser.execute_script("return arguments[0].getBoundingClientRect().width", picture)
        times = 2 * side / SHAPE[1]  # of the screen's own pixels
        assert abs(times - round(times)) < 1e-6 and times > 4
        assert picture.value_of_css_property("image-rendering") == "pixelated"
        outline = browser.switch_to.active_element.value_of_css_property("outline-width")
        assert outline == "3px"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_browser_reports_no_error_and_requests_nothing_from_elsewhere(browser, page):
    Player(browser, page).press("n")
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert page.as_uri() in requested
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requested)


# --- results -------------------------------------------------------------------------------------------------------

RESULT = {
    "format": study.FORMAT,
    "title": "t",
    "digest": "d",
    "facts": {},
    "sitting": "a",
    "generated": [[True, False], [True, True]],
    "marked": [[True, True], [False, False]],
    "seconds": [1.5, 2.5],
}


def saved(folder: Path, name: str, **changes) -> Path:
    file = folder / name
    file.write_text(json.dumps(RESULT | changes))
    return file


def test_results_are_counted_from_the_answers(tmp_path):
    one = study.read([saved(tmp_path, "a.json", errors=0, error_rate=0.0)]).pooled  # their own count is not used
    assert one == study.Score("all", generated=3, hits=1, real=1, false_alarms=1, seconds=4.0)
    assert (one.errors, one.error_rate, one.hit_rate, one.false_alarm_rate) == (3, 0.75, 1 / 3, 1.0)
    none_real = saved(tmp_path, "b.json", generated=[[True, True], [True, True]])
    assert np.isnan(study.read([none_real]).pooled.false_alarm_rate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "e"}, "another study"),
        ({"generated": [[True, False], [True, False]]}, "another study"),
        ({"sitting": "a"}, "the same result"),
        ({"format": "jaxgen study result 9"}, "no result of a study"),
        ({"marked": [[True, True], [False]]}, "broken"),
        ({"marked": [[True, True], [0, 1]]}, "broken"),
        ({"generated": [], "marked": [], "seconds": []}, "broken"),
        ({"seconds": [1.0, -2.0]}, "broken"),
        ({"seconds": [1.0, float("nan")]}, "broken"),
        ({"seconds": [1.0]}, "broken"),
        ({"sitting": None}, "broken"),
        ({"facts": []}, "broken"),
    ],
)
def test_results_that_do_not_belong_together_are_refused_in_one_line(tmp_path, changes, message):
    files = [saved(tmp_path, "a.json"), saved(tmp_path, "b.json", **{"sitting": "b", **changes})]
    with pytest.raises(InputError, match=message) as error:
        study.read(files)
    assert "\n" not in str(error.value) and str(files[1]) in str(error.value)


@pytest.mark.parametrize(
    "text", [b"", b"[" * 100_000, b"\xff\xfe\x00", b"[1]", b"__import__('os')", b"{}", b"\x80\x04."]
)
def test_files_that_are_no_results_are_refused_in_one_line(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_bytes(text)
    for wrong in (file, tmp_path / "missing.json", tmp_path):
        with pytest.raises(InputError, match="give") as error:
            study.read([wrong])
        assert "\n" not in str(error.value) and str(wrong) in str(error.value)
    with pytest.raises(InputError, match="at least one file"):
        study.read([])


# --- the command ---------------------------------------------------------------------------------------------------


def run_of(dataset, condition=None):
    """A run that paints its condition: a label's number, an attribute's strength, the given half, twice."""

    def predict(params, extra, given):
        def paint(z, t):
            if given is None:
                return jnp.full((z.shape[0], 8, 8, 1), 0.5)
            if isinstance(given, Maybe):
                return paint_value(z, given.value)
            return paint_value(z, given)

        def paint_value(z, given):
            if given.ndim == 4:
                return jnp.concatenate([given, given], axis=1)
            value = given if given.ndim == 1 else given @ jnp.asarray([1.0, 2.0])
            return jnp.broadcast_to((value / 127.5 - 1)[:, None, None, None], (z.shape[0], 8, 8, 1))

        return lambda z, t: Prediction(paint(z, t))

    game = Game(lambda key, batch: ({}, {}), {})
    model = Model(game, lambda p, e, keys, c: normal(keys, (2,)), predict, one_shot, condition=condition)
    experiment = SimpleNamespace(model=model, data=dataset, name="painter")
    return SimpleNamespace(experiment=experiment, state=SimpleNamespace(params={}, extra={}, ema=None), step=3)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`command(run, *flags)`: (real images, generated ones) of the page that is written."""

    def call(run, *flags: object):
        monkeypatch.setattr(command_line, "open_model", lambda workdir: (run, SimpleNamespace(rows=None)))
        execute(command_line.study, [str(tmp_path), *map(str, flags)], "jaxgen study")
        x, shape = shown(tmp_path / "study.html"), content(tmp_path / "study.html")["per_page"]
        truth = study.toss(len(x) // shape, shape, 0).ravel()
        return x[~truth], x[truth]

    return call


DIGITS = data.load("digits", "test").take(np.arange(297))
LABEL = {x.tobytes(): int(label) for x, label in zip(DIGITS.x, DIGITS.condition, strict=True)}


def test_samples_have_the_labels_of_the_real_images(command, capsys, tmp_path):
    reals, fakes = command(run_of(data.load("digits"), labels(10)), "--pages", 4, "--per-page", 20)
    own, painted = np.array([LABEL[x.tobytes()] for x in reals]), fakes[:, 0, 0, 0]
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "study.html")
    assert len(own) + len(painted) == 80 and np.ptp(fakes, axis=(1, 2, 3)).max() == 0
    counts = sorted((np.bincount(part, minlength=10) for part in (own, painted)), key=np.sum)
    assert np.all(counts[0] <= counts[1]) and counts[0].sum() > 20  # the fewer are some of the more
    facts = content(tmp_path / "study.html")["facts"]
    assert facts["experiment"] == "painter" and facts["step"] == 3 and facts["real images"] == "digits test"


def test_a_label_that_is_named_is_that_of_both_kinds(command, tmp_path):
    reals, fakes = command(run_of(data.load("digits"), labels(10)), "--condition", 3, "--pages", 1)
    assert {LABEL[x.tobytes()] for x in reals} == {3} == set(fakes.ravel().tolist())
    assert content(tmp_path / "study.html")["facts"]["condition"] == "3"
    with pytest.raises(InputError, match="give fewer --pages"):
        command(run_of(data.load("digits"), labels(10)), "--condition", 3, "--pages", 8)
    reals, fakes = command(run_of(data.load("digits"), optional(labels(10))), "--condition", 3, "--pages", 1)
    assert {LABEL[x.tobytes()] for x in reals} == {3} == set(fakes.ravel().tolist())


def test_attributes_are_those_of_the_real_images_and_halves_those_of_others(command, monkeypatch):
    def traits(split="train"):
        digits = data.load("digits", split)
        values = np.stack([data.labels_of(digits) % 2, data.labels_of(digits) >= 5], axis=1).astype(np.int32)
        take = digits.take
        return digits._replace(
            name="traits_", take=lambda i: take(i)._replace(condition=values[i]), classes=("odd", "large")
        )

    monkeypatch.setitem(data.SETS, "traits_", traits)
    reals, fakes = command(run_of(data.load("traits_"), attributes(2)), "--condition", "odd,large", "--pages", 1)
    assert {LABEL[x.tobytes()] for x in reals} <= {5, 7, 9} and set(fakes.ravel().tolist()) == {3}
    halves = image(lambda x: x[:, :4], (4, 8, 1))
    reals, fakes = command(run_of(data.load("digits"), halves))
    given = {x[:4].tobytes() for x in fakes}
    assert given <= {x[:4].tobytes() for x in DIGITS.x} and not given & {x[:4].tobytes() for x in reals}


def test_the_command_refuses_in_one_line(command):
    with pytest.raises(InputError, match="of points"):
        command(run_of(data.load("rings")))
    with pytest.raises(InputError, match="unconditional"):
        command(run_of(data.load("digits")), "--condition", 3)
    with pytest.raises(InputError, match="--pages must be"):
        command(run_of(data.load("digits")), "--pages", 0)
    with pytest.raises(InputError, match=r"ends in \.html"):
        command(run_of(data.load("digits")), "--out", "x.png")
    with pytest.raises(InputError, match="folder of a run"):
        execute(command_line.study, [], "jaxgen study")
