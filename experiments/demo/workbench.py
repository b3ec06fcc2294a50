"""The workbench on the runs of `make train`: the picture of the guide.

    python experiments/demo/workbench.py runs nbs/images/explore.jpg

`runs` is the folder that `make train` leaves; needs Chromium and playwright.
"""

import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from fastcore.script import call_parse

PORT = 8877


@call_parse
def main(
    runs: str,  # folder of run folders
    to: Path,  # .jpg or .png
    view: str = "#maps",  # an address of the workbench from the # on
    width: int = 1400,  # pixels
    height: int = 1000,
):
    "Open the workbench and take its picture."
    from playwright.sync_api import sync_playwright

    code = "from cyborg.explore.workbench import explore; "
    code += f"explore({runs!r}, port={PORT}, no_browser=True)"
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        with sync_playwright() as playwright:
            args = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=args
            )
            page = browser.new_page(viewport={"width": width, "height": height})
            for _ in range(100):
                with suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5).close()
                    break
                time.sleep(0.2)
            page.goto(f"http://127.0.0.1:{PORT}/{view}")
            page.wait_for_selector("[data-ready]")
            page.wait_for_timeout(2000)  # the mean face, and the chart below
            page.screenshot(path=to, **({"quality": 85} if to.suffix == ".jpg" else {}))
            browser.close()
    finally:
        server.terminate()
