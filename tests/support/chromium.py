"""Chromium for the tests of the report: the one on PATH, or what Selenium Manager finds or downloads.

As a program it installs one where it can. Packages of Debian come first: they bring the libraries that a browser needs.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PACKAGES = ("chromium", "chromium-driver")
MISSING = "no browser starts"
"""How the reason of a test begins that is skipped for want of a browser."""
REMEDY = f"install Chromium and its driver (Debian: apt-get install {' '.join(PACKAGES)})"
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's is too small for several browsers
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever it would call has no address
    "--hide-scrollbars",
)


class NoBrowserError(Exception):
    """None starts; the message, one line, is a reason that begins with `MISSING`."""


def found() -> tuple[str | None, str | None]:
    """The paths of a browser and of its driver, each None where `PATH` has none."""
    browsers = (shutil.which(name) for name in NAMES)
    return next((browser for browser in browsers if browser), None), shutil.which("chromedriver")


def start(profile: Path) -> webdriver.Chrome:
    """The browser on `PATH`, if it starts with the driver there; else what Selenium Manager finds or downloads.

    `profile` is a folder of its own for every browser.

    Raises:
        NoBrowserError: neither starts.
    """
    os.environ.setdefault("SE_AVOID_STATS", "true")
    browser, driver = found()
    reason = ""
    for browser_path, driver_path in [(browser, driver)] * (browser is not None) + [(None, None)]:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        if browser_path is not None:
            options.binary_location = browser_path
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        try:
            return webdriver.Chrome(options=options, service=Service(driver_path))
        except WebDriverException as error:
            said = (error.msg or type(error).__name__).partition("; For documentation")[0]
            reason = reason or said.strip().splitlines()[0]
    raise NoBrowserError(f"{MISSING} ({reason})")


def starts() -> bool:
    """Whether a browser does."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        try:
            start(Path(profile)).quit()
        except NoBrowserError:
            return False
    return True


def show(browser: webdriver.Chrome, path: Path, width: int = 1600, scheme: str = "light") -> None:
    """A page as wide as that, in pixels, where the reader prefers that scheme of colours, "light" or "dark"."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    screen = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(path.as_uri())


def install() -> bool:
    """Installs Debian's packages as root or by a `sudo` that asks for no password; whether that is done."""
    rights = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if shutil.which("apt-get") is None or (rights and shutil.which("sudo") is None):
        return False
    if subprocess.run([*rights, "true"], check=False, capture_output=True).returncode:
        return False
    apt = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]
    subprocess.run([*apt, "update"], check=False)  # may fail for a source that is not needed
    packages = [*apt, "install", "--yes", "--no-install-recommends", *PACKAGES]
    return subprocess.run(packages, check=False).returncode == 0


def main() -> None:
    """Sees to a browser. Where there can be none the tests say so, which is no reason not to run them."""
    browser, _ = found()
    if (browser is not None and starts()) or install():
        return
    starts()  # once, so that Selenium Manager's download is there before several processes ask for it


if __name__ == "__main__":
    main()
