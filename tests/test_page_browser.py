"""The page in a real browser: headless Chromium uploads, presses, reads, downloads, at a desk and on a phone, by keyboard.

The screenshots lie in the test's folder (`--basetemp=DIR` says where).
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import Served, serving
from test_answer_page import page_of, save
from test_explain import METHODS, blobs, predictor_of
from test_predict import put

from rareshot.predict import WORDS, adapt_to, answers, load_classifier

MISSING = [name for name in ("gradio", "selenium") if find_spec(name) is None] + [
    name for name in ("chromium", "chromedriver") if shutil.which(name) is None
]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(MISSING), reason=f"needs what is not installed here: {', '.join(MISSING)}"),
]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("page") / "page") as page:
        yield page


class Browser:
    """Chromium, with the few things that a person does."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def one(self, css: str) -> Any:
        return self.wait(lambda: self.all(css), css)[0]

    def text(self, css: str) -> str:
        return " ".join(element.text for element in self.all(css))

    def wait(self, what: Callable[[], Any], named: str) -> Any:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(0.1)
        self.shoot("failed")
        raise AssertionError(f"waited {WAIT_S:g} s for {named}; see {self.folder / 'failed.png'}")

    def wait_for(self, css: str, text: str) -> None:
        self.wait(lambda: text in self.text(css), f"{text!r} in {css}")

    def press(self, css: str) -> None:
        element = self.one(css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def drop(self, css: str, files: list[Path]) -> None:
        self.one(f"{css} input[type=file]").send_keys("\n".join(map(str, files)))

    def shoot(self, name: str) -> None:
        """A picture of the whole page."""
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        size = self.driver.execute_script("return [innerWidth, innerHeight]")
        metrics = {"width": size[0], "height": height + 20, "deviceScaleFactor": 1, "mobile": size[0] < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        time.sleep(0.3)
        self.driver.save_screenshot(str(self.folder / f"{name}.png"))
        metrics |= {"height": size[1]}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def is_wider_than_the_screen(self) -> bool:
        return bool(self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth"))

    def elsewhere(self, address: str) -> list[str]:
        """Everything that was asked of another machine."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        assert asked
        return [url for url in asked if not url.startswith((address, "data:", "blob:"))]

    def tab_to(self, css: str, most: int = 80) -> None:
        """Press Tab until it is there."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        for _ in range(most):
            ActionChains(self.driver).send_keys(Keys.TAB).perform()
            if self.driver.execute_script("return document.activeElement.matches(arguments[0])", css):
                return
        raise AssertionError(f"{most} times Tab did not lead to {css}")

    def type(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()


@pytest.fixture
def browser(served: Served, tmp_path: Path) -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1100,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    (tmp_path / "downloads").mkdir()
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(served.address)
        yield Browser(driver, tmp_path)
        severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []
    finally:
        driver.quit()
    assert served.files_at_last() == []
    assert "Traceback" not in served.errors.read_text()


def phone(browser: Browser) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def downloaded(browser: Browser, name: str) -> Path:
    file = browser.folder / "downloads" / name
    browser.press(f'a[download="{name}"]')
    browser.wait(file.is_file, str(file))
    return file


def whole_way(browser: Browser, served: Served, tmp_path: Path) -> None:
    """Name, upload, learn, upload, judge, download; what is shown is what the command line says."""
    for at, name in enumerate(("lupus", "rosacea"), 1):
        files = [put(tmp_path / "photos" / name / f"{n}.png", 150 * at - 130, 10 * at + n) for n in range(3)]
        browser.one(f"#name-{at} input, #name-{at} textarea").send_keys(name)
        browser.drop(f"#drop-{at}", files)
        browser.wait_for(f"#shelf-{at}", "3 photographs")
    (tmp_path / "broken.jpg").write_text("no picture")
    new = [put(tmp_path / "new" / f"{n}.png", 20 + 150 * (n % 2), 50 + n) for n in range(4)]
    browser.press("#learn")
    browser.wait_for("#learned", "Learned in")
    browser.drop("#new-drop", [*new, tmp_path / "broken.jpg"])
    browser.wait_for("#new-shelf", "4 new images")
    assert "broken.jpg: is not an image" in browser.text("#new-said")
    browser.press("#judge")
    browser.wait_for("#judged", "4 images judged.")
    predictor = adapt_to(WORDS[0], tmp_path / "photos")
    for card, expected in zip(browser.all(".rs-card"), answers(predictor, map(str, new)), strict=True):
        assert f"most like {expected.predicted}" in card.text
        shown = sorted(re.findall(r"(\d+\.\d) %", card.text)[:2])
        assert shown == sorted(f"{100 * value:.1f}" for value in expected.probabilities)
    assert load_classifier(downloaded(browser, "classifier.safetensors")).classes == ("lupus", "rosacea")
    assert (
        downloaded(browser, "predictions.csv").read_text().startswith("path,predicted,lupus,rosacea,warnings\n0.png,")
    )
    assert len(browser.all(".rs-why")) == 4
    browser.press("#reporting")
    report = downloaded(browser, "report.html").read_text()
    assert all(f"{n}.png" in report for n in range(4))
    assert not browser.is_wider_than_the_screen()
    assert browser.elsewhere(served.address) == []


def test_the_whole_way_at_a_desk(browser: Browser, served: Served, tmp_path: Path) -> None:
    browser.one("#example")
    browser.shoot("desk-start")
    whole_way(browser, served, tmp_path)
    browser.press("#check")
    browser.wait_for("#suspects", "Look at the first ones again")
    browser.shoot("desk-answers")


def test_the_whole_way_at_the_width_of_a_phone(browser: Browser, served: Served, tmp_path: Path) -> None:
    phone(browser)
    browser.one("#example")
    browser.shoot("phone-start")
    whole_way(browser, served, tmp_path)
    browser.shoot("phone-answers")


def test_the_example_by_keyboard_alone(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.one("#example")
    browser.tab_to("#example")
    browser.type(Keys.ENTER)
    browser.wait_for("#judged", "6 images judged.")
    browser.shoot("example")
    browser.tab_to("#name-1 input, #name-1 textarea")
    browser.type("more")
    for field in ("#drop-1", "#drop-2"):  # Enter opens the chooser of files
        browser.tab_to(f"{field} button")
        browser.driver.execute_script(
            "window.chosen = false; document.querySelector(arguments[0] + ' input[type=file]')"
            ".addEventListener('click', event => { window.chosen = true; event.preventDefault(); })",
            field,
        )
        browser.type(Keys.ENTER)
        browser.wait(lambda: browser.driver.execute_script("return window.chosen"), f"{field} to ask for files")
    browser.tab_to("#add")
    browser.type(Keys.ENTER)
    browser.wait(lambda: browser.all("#name-4 input, #name-4 textarea"), "a fourth condition")
    browser.tab_to("#remove-4")
    browser.type(Keys.SPACE)
    browser.wait(lambda: not browser.all("#name-4 input, #name-4 textarea"), "it to go")
    browser.tab_to("#learn")
    browser.type(Keys.ENTER)
    browser.wait_for("#learned", "lacunarmore (3 photographs)")
    browser.tab_to('a[download="classifier.safetensors"]')


def test_a_mistake_is_said_in_words(browser: Browser, tmp_path: Path) -> None:
    browser.press("#judge")
    browser.wait_for("#judged [role=alert]", "Nothing is learned yet: give photographs in part 1")
    browser.press("#learn")
    browser.wait_for("#learned [role=alert]", "Condition 1 has no name: write one into its field in part 1.")
    (tmp_path / "a <b> & c.jpg").write_bytes(b"GIF89a")
    browser.drop("#drop-1", [tmp_path / "a <b> & c.jpg"])
    browser.wait_for("#support-said [role=alert]", "a <b> & c.jpg: is truncated or damaged")
    browser.shoot("mistakes")


def test_a_page_to_file_fits_any_window(browser: Browser, tmp_path: Path) -> None:
    long_names = replace(
        blobs(), classes=("a red blob that is rather_long_to_name", "a_blue_blob_whose_name_has_no_gaps_at_all")
    )
    red = [save(tmp_path / "red.png", (200, 40, 40), 70)]
    page = tmp_path / "page.html"
    page.write_text(page_of(predictor_of(METHODS["logistic"].blank(64), long_names), red))
    browser.driver.get(page.as_uri())
    for width in (390, 600, 740, 800, 900, 1000, 1100, 1400):
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert not browser.is_wider_than_the_screen(), width
