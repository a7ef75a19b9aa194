import importlib.util
import os
import shutil
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
REQUIRED = "QFAIR_TESTS_NEED_BROWSER"


@pytest.fixture(scope="session")
def made_up_audit():
    spec = importlib.util.spec_from_file_location("made_up_audit", BENCHMARKS / "made_up_audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.made_up_audit


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """One headless browser for all pages."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        missing = "chromium and chromedriver are not installed (Debian packages chromium and chromium-driver)"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{missing}, and {REQUIRED} is set")
        pytest.skip(missing)
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(programs[1]))
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


class Page:
    """A page in the browser."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, width=1280, height=800, scheme="light", script=True):
        run = self.driver.execute_cdp_cmd
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        run("Emulation.setDeviceMetricsOverride", metrics)
        run("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        run("Emulation.setScriptExecutionDisabled", {"value": not script})
        self.driver.get_log("browser")  # of the page before
        self.driver.get(path.as_uri())
        return self

    def complaints(self):
        """What the console holds that is no mere information."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def run(self, script, *given):
        return self.driver.execute_script(script, *given)

    def violations(self, context=None):
        """What axe-core finds in the page, or in a part of it, that is serious, by rule and element."""
        from axe_core_python.selenium import Axe

        found = Axe().run(self.driver, context)["violations"]
        return [
            (violation["id"], node["target"], node["failureSummary"])
            for violation in found
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]


@pytest.fixture
def page(chromium):
    yield Page(chromium)
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    chromium.get("about:blank")
