"""The page that subjects see, on the demo set: the picture of the guide.

    python experiments/demo/annotate.py nbs/images/annotate.jpg

Needs Chromium and playwright.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from fastcore.script import call_parse

from cyborg.demo import make_demo

PORT = 8878
URL = f"http://127.0.0.1:{PORT}/"


def take(page, to: Path) -> None:
    "Enter, paint on both pictures, choose, and take the picture."
    page.goto(f"{URL}?workerId=A1")
    page.check("#agree")
    page.click("#start")
    page.click("#begin")
    page.wait_for_selector("#question")
    for number, spots in enumerate((((0.36, 0.41), (0.62, 0.46)), ((0.4, 0.76), (0.58, 0.75)))):
        box = page.locator(".brush-stage").nth(number).bounding_box()
        for spot, press in zip(spots, (page.mouse.down, page.mouse.up), strict=True):
            page.mouse.move(
                box["x"] + spot[0] * box["width"], box["y"] + spot[1] * box["height"], steps=6
            )
            press()
    page.mouse.move(5, 5)
    page.screenshot(path=to, **({"quality": 85} if to.suffix == ".jpg" else {}))


@call_parse
def main(
    to: Path,  # .jpg or .png
    width: int = 900,  # pixels
    height: int = 700,
):
    "Serve a study of the demo set, take part, and take the picture."
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        demo = make_demo(Path(folder) / "demo", n=60, size=224)
        code = "from cyborg.commands import annotate_command; annotate_command()"
        given = {"manifest": demo.root / "manifest.csv", "root": demo.root, "split": ""}
        given |= {"store": Path(folder) / "study.sqlite", "port": PORT, "side": 512}
        given |= {"practice": 0, "attention_every": 0, "pairs": 10}
        words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
        server = subprocess.Popen([sys.executable, "-c", code, *words])
        try:
            for _ in range(300):
                with suppress(OSError):
                    urllib.request.urlopen(f"{URL}api/texts", timeout=5).close()
                    break
                time.sleep(0.2)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            take(browser.new_page(viewport={"width": width, "height": height}), to)
            browser.close()
        finally:
            server.terminate()
            server.wait(10)
