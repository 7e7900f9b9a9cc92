"""No process ever has the memory of a whole model that is divided."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a Linux process"),
]


# In wholes of the parameters: what a matrix, which is drawn or sent whole, and libraries take.
BESIDE = 0.2


@pytest.mark.parametrize("count", [2, 4])
def test_no_process_has_the_whole_model(server, tmp_path, count):
    for rank, found in enumerate(peaks(server, tmp_path, count, loading=False)):
        assert found["parameters"] == pytest.approx(1, abs=0.02)
        assert 0.9 / count < found["build"] < 1 / count + BESIDE, (rank, found)
        assert found["checkpoint"] < BESIDE, (rank, found)
        assert found["best"] < BESIDE, (rank, found)
    for rank, found in enumerate(peaks(server, tmp_path, count, loading=True)):
        assert 0.9 / count < found["build"] < 1 / count + BESIDE, (rank, found)
        assert 1.8 / count < found["load"] < 2 / count + BESIDE, (rank, found)  # the moments


def peaks(server, folder: Path, count: int, loading: bool) -> list[dict[str, float]]:
    """Return what each process had at most."""
    ended = server.run(count, "memory", str(folder), loading)
    assert ended.codes == [0] * count, ended.outputs
    return json.loads((folder / "memory.json").read_text(encoding="utf-8"))
