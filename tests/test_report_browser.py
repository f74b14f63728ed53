"""The page in a browser: drawn, silent, readable on a phone, printable; and figures as files."""

import base64
import shutil
import time
from dataclasses import replace

import pytest

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from isthmus.report import save_figures, write_report  # noqa: E402
from test_report import HOSTILE, make_study  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1280,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    study = make_study()
    surface = replace(study.surfaces[0], names=("A", "B", HOSTILE))
    write_report(replace(study, surfaces=(surface,)), path)
    return path


@pytest.fixture
def opened(browser, page):
    """The page at desktop size, with every figure drawn."""
    resize(browser, 1280)
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(
        lambda d: d.execute_script("return document.documentElement.dataset.drawn")
    )
    return browser


def resize(browser, width):
    settings = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
    time.sleep(0.6)


def test_every_plot_is_drawn_and_the_console_is_silent(opened):
    plots = opened.find_elements(By.CSS_SELECTOR, ".plot")
    assert len(plots) == 9
    for plot in plots:
        drawing = plot.find_element(By.CSS_SELECTOR, "svg.main-svg")
        assert drawing.size["width"] > 300
        assert drawing.size["height"] > 100
        assert plot.find_elements(By.CSS_SELECTOR, "path")
    assert opened.get_log("browser") == []


def test_nothing_is_loaded_from_anywhere(opened):
    asked = opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in asked if not name.startswith(("data:", "blob:"))] == []


def test_hovering_shows_values_with_intervals(opened):
    plot = opened.find_element(By.ID, "profile-error")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    opened.execute_script(
        """const plot = arguments[0];
        const index = plot.data.findIndex(t => t.name === 'naive line' && t.line.dash === 'solid');
        Plotly.Fx.hover(plot, [{curveNumber: index, pointNumber: 12}]);""",
        plot,
    )
    told = WebDriverWait(opened, 10).until(lambda d: plot.find_element(By.CSS_SELECTOR, ".hoverlayer").text)
    assert "naive line" in told
    assert "62.00 %" in told
    assert "95 %" in told


def test_a_mouse_over_the_map_shows_loss_and_error(opened):
    plot = opened.find_element(By.ID, "plane-1-loss")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    centre = plot.find_element(By.CSS_SELECTOR, ".nsewdrag")
    webdriver.ActionChains(opened).move_to_element_with_offset(centre, 20, 30).perform()
    told = WebDriverWait(opened, 10).until(lambda d: plot.find_element(By.CSS_SELECTOR, ".hoverlayer").text)
    assert "loss" in told
    assert "%" in told


def test_buttons_change_the_axis(opened):
    button = opened.find_element(By.XPATH, "//button[@data-figure='profile-loss'][text()='log']")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    kind = "return document.getElementById('profile-loss')._fullLayout.yaxis.type"
    assert opened.execute_script(kind) == "log"
    assert button.get_attribute("aria-pressed") == "true"


def test_a_phone_scrolls_only_downward(opened):
    resize(opened, 390)
    wide, shown = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert shown == 390
    assert wide <= 390
    for plot in opened.find_elements(By.CSS_SELECTOR, ".plot svg.main-svg"):
        assert plot.size["width"] <= 390


def test_names_from_outside_run_nothing(opened):
    assert "alert('x')" in opened.find_element(By.ID, "plane-1-loss").text
    assert opened.execute_script("return document.querySelectorAll('.plot script').length") == 0


def test_the_page_prints(opened):
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    content = base64.b64decode(printed["data"])
    assert content.startswith(b"%PDF")
    assert len(content) > 50_000
    assert opened.execute_script("return document.querySelectorAll('details[open]').length") == 0


def test_a_dark_page_has_light_writing(opened):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    try:
        colour = "return document.getElementById('profile-loss')._fullLayout.font.color"
        WebDriverWait(opened, 10).until(lambda d: d.execute_script(colour) == "#e3e6ea")
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_figures_are_written_as_files(tmp_path):
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    study = make_study({"naive line": 0.6})
    small = replace(study, paths=study.paths[:1], matching=None)
    files = save_figures(small, tmp_path / "one")
    again = save_figures(small, tmp_path / "two")
    assert [file.name for file in files[:2]] == ["profile-error.png", "profile-error.svg"]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files if file.suffix == ".png")
    for one, two in zip(files, again, strict=True):
        if one.suffix == ".svg":
            assert one.read_bytes() == two.read_bytes()
            assert b"http://www.w3.org/2000/svg" in one.read_bytes()
