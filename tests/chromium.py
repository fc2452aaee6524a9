"""Pages in a browser without a window."""

import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="found no chromium, in which a page is looked at"
)


def look(page: Path, folder: Path, fragment: str = "") -> tuple[str, str, np.ndarray]:
    """A page as its scripts leave it, what the browser says, and a picture, kept in the folder."""
    shot = folder / f"{page.stem}.png"
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--enable-unsafe-swiftshader",
        "--enable-logging=stderr",
    ]
    command += [
        "--window-size=900,600",
        "--virtual-time-budget=8000",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [f"--screenshot={shot}", "--dump-dom", f"file://{page}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, matplotlib.image.imread(shot)[..., :3]
