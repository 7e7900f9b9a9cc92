"""Models on the Hugging Face hub, fetched once by huggingface_hub to its own cache.

Logins, mirrors, proxies and the place of the cache are that library's settings (HF_TOKEN,
HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE); nothing is overridden here, and no code of a repository runs.
"""

from __future__ import annotations

import glob
import importlib.util
import re
import shutil
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_scratch.download import DownloadError
from llm_scratch.files import file_sha256
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.weights.hub_errors import UnreachedError, explained, no_hub, not_here
from llm_scratch.weights.hub_files import needed_files
from llm_scratch.weights.hub_names import HubName, is_safe, parse_hub_name
from llm_scratch.weights.huggingface_files import check_config, read_index

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class _Snapshot:
    """A repository at one commit.

    Args:
        name: the requested name.
        commit: the commit of the revision.
        files: the hub's information about each file, by path; None if the hub was not asked.
        unreached: why the hub was not asked; None if it was.
    """

    name: HubName
    commit: str
    files: dict[str, Any]
    unreached: Exception | None = None


def fetch_from_hub(source: str, ignore_keys: Collection[str] = ()) -> Path:
    """Fetch the missing files of a model on the hub, and return its folder or file.

    Only the files needed to open it are fetched, the weights last, and only once the configuration
    is known to be of a supported model. Files in the cache are not fetched again, and are enough if
    the hub cannot be reached.

    Args:
        source: "hub:ORG/NAME", with "@REVISION" for a branch, a tag or a commit other than the
            newest, and with "/FILE" for one file of weights.
        ignore_keys: settings of the configuration to ignore.

    Raises:
        ValueError: if the name is not of this form, or several GGUF files fit it.
        FileNotFoundError: if there is no such repository, revision or file, or no weights in it,
            or the cache lacks files and HF_HUB_OFFLINE forbids fetching them.
        PermissionError: if the repository needs a login, or an accepted licence.
        WeightsError: if the model is of an unsupported kind.
        DownloadError: if huggingface_hub is not installed, or the files do not arrive completely.
    """
    name = parse_hub_name(source)
    if importlib.util.find_spec("huggingface_hub") is None:
        raise DownloadError(
            f"{name} is fetched by the package huggingface_hub, which is not installed: "
            "pip install 'llm-scratch[hub]'"
        )
    snapshot = _find_snapshot(name)
    try:
        needed = needed_files(name, snapshot.files)
    except FileNotFoundError as err:
        if snapshot.unreached is None:
            raise
        raise not_here(name, snapshot.unreached) from err  # as far as the cache shows
    paths = _bring(snapshot, needed.beside)
    if name.file is None and "config.json" in paths:
        try:
            check_config(paths["config.json"], ignore_keys)
        except WeightsError as err:
            raise WeightsError(f"{name}/config.json", err.hint) from err
    weights = _bring(snapshot, [needed.weights])[needed.weights]
    if weights.suffix == ".json":
        _bring(snapshot, sorted(set(read_index(weights).values())))
    whole = name.file is None and weights.suffix.lower() != ".gguf"
    return weights.parent if whole else weights


def _find_snapshot(name: HubName) -> _Snapshot:
    """Ask the hub for the newest commit of a revision, or the cache if it does not answer."""
    from huggingface_hub import HfApi, constants, errors, is_offline_mode

    unreached: Exception = errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    if not is_offline_mode():
        try:
            with explained(name):
                info = HfApi().model_info(
                    name.repository,
                    revision=name.revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_ETAG_TIMEOUT,
                )
        except UnreachedError as err:
            unreached = err
        else:
            return _answered(name, info)
    return _cached(name, unreached)


def _answered(name: HubName, info: Any) -> _Snapshot:
    """Return the hub's answer, and record the commit of the revision in the cache."""
    from huggingface_hub import HfApi, errors

    files = {file.rfilename: file for file in info.siblings or ()}
    if not COMMIT.fullmatch(str(info.sha)) or not all(isinstance(path, str) for path in files):
        raise no_hub(name, "its answer names no commit")
    revision = {"repo_id": name.repository, "revision": name.revision}
    try:
        noted = HfApi().resolve_revision(**revision, local_files_only=True).resolved
    except errors.RevisionResolutionError:
        noted = None
    if noted != info.sha:
        with explained(name):
            HfApi().resolve_revision(**revision)
    return _Snapshot(name, info.sha, {path: of for path, of in files.items() if is_safe(path)})


def _cached(name: HubName, unreached: Exception) -> _Snapshot:
    """Return what the cache knows about a repository: its list of files, or the cached ones."""
    from huggingface_hub import HfApi, errors, get_cached_repo_tree, snapshot_download

    where = {"repo_id": name.repository}
    try:
        revision = HfApi().resolve_revision(**where, revision=name.revision, local_files_only=True)
        where["revision"] = revision.resolved
        # Without a pattern, none of its files counts as missing.
        folder = Path(snapshot_download(**where, local_files_only=True, allow_patterns=[]))
    except (errors.RevisionResolutionError, errors.LocalEntryNotFoundError) as err:
        raise not_here(name, unreached) from err
    try:
        paths = [file.path for file in get_cached_repo_tree(**where)]
    except errors.CachedRepoTreeNotFoundError:  # other programs fetch single files
        paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    files: dict[str, Any] = dict.fromkeys(filter(is_safe, paths))
    return _Snapshot(name, revision.resolved, files, unreached)


def _bring(snapshot: _Snapshot, paths: Collection[str]) -> dict[str, Path]:
    """Return the places of a snapshot's files in the cache, after fetching missing ones."""
    from huggingface_hub import snapshot_download

    name = snapshot.name
    found = _in_cache(snapshot, paths)
    missing = [path for path in paths if path not in found]
    if not missing:
        return found
    if snapshot.unreached is not None:
        raise not_here(name, snapshot.unreached, missing)
    if lost := [path for path in missing if path not in snapshot.files]:
        raise FileNotFoundError(f"{name} has no {', '.join(lost[:4])}, which its index names")
    asked = {
        "repo_id": name.repository,
        "revision": snapshot.commit,
        "allow_patterns": [glob.escape(path) for path in missing],
    }
    with explained(name):
        _check_space(snapshot, missing, asked)
        snapshot_download(**asked, tqdm_class=_bars_to_watch())
    found = _in_cache(snapshot, paths)
    for path in missing:
        _check_whole(snapshot, path, found.get(path))
    return found


def _bars_to_watch() -> type:
    """Return huggingface_hub's progress bar, modified to show only on a terminal."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.setdefault("disable", None if sys.stderr else True)
            super().__init__(*args, **options)

    return Bar


def _in_cache(snapshot: _Snapshot, paths: Iterable[str]) -> dict[str, Path]:
    """Return the places of the files that are in the cache."""
    from huggingface_hub import try_to_load_from_cache

    repository, commit = snapshot.name.repository, snapshot.commit
    places = {path: try_to_load_from_cache(repository, path, revision=commit) for path in paths}
    return {path: Path(place) for path, place in places.items() if isinstance(place, str)}


def _check_space(snapshot: _Snapshot, missing: Iterable[str], asked: dict[str, Any]) -> None:
    """Refuse a download too large for the disk; files cached from other commits take no space."""
    from huggingface_hub import constants, snapshot_download

    cache = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(place).free, sum(snapshot.files[p].size or 0 for p in missing)
    if needed > free:
        files = snapshot_download(**asked, dry_run=True)
        needed = sum(file.file_size or 0 for file in files if file.will_download)
    if needed > free:
        raise DownloadError(
            f"{snapshot.name} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in "
            f"{cache}; set HF_HOME to use another place"
        )


def _check_whole(snapshot: _Snapshot, path: str, place: Path | None) -> None:
    """Compare a fetched file with the hub's information; remove a wrong one from the cache."""
    if place is None:
        raise no_hub(snapshot.name, f"{path} came under another commit than the requested one")
    said = snapshot.files[path]
    size, digest = (said.lfs.size, said.lfs.sha256) if said.lfs else (said.size, None)
    if size in (None, place.stat().st_size) and digest in (None, file_sha256(place)):
        return
    place.resolve().unlink()
    place.unlink(missing_ok=True)
    raise DownloadError(f"{snapshot.name}: {path} arrived damaged and was removed; fetch it again")
