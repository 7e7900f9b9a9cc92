"""Errors of models on the Hugging Face hub, each in one line that names the way out."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from llm_scratch.download import DownloadError
from llm_scratch.files import first_line
from llm_scratch.weights.hub_names import HubName

LOGIN = "`hf auth login`, or a token in HF_TOKEN,"


class UnreachedError(DownloadError):
    """An error for a hub that does not answer; the cache may be enough."""


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Turn huggingface_hub's errors into errors of this library."""
    from huggingface_hub import errors

    try:
        yield
    except DownloadError:
        raise
    except (OSError, errors.HTTPError, errors.RevisionResolutionError) as err:
        raise _told(name, err) from err
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as err:
        raise no_hub(name, first_line(err)) from err


def _told(name: HubName, err: BaseException) -> OSError:
    """Return an error that says what happened and what to do."""
    from huggingface_hub import constants, errors

    hub, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{name.repository}"
    if isinstance(err, errors.LocalEntryNotFoundError) and err.__cause__ is not None:
        return _told(name, err.__cause__)  # why it was not fetched
    if isinstance(err, errors.GatedRepoError):
        return PermissionError(
            f"{name} needs its licence accepted on {page}, and then {LOGIN} of that account"
        )
    if isinstance(err, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"{name}: {hub} has no {name.repository}, or it is private: {LOGIN} opens yours"
        )
    if isinstance(err, errors.RevisionNotFoundError):
        revision = name.revision or constants.DEFAULT_REVISION
        return FileNotFoundError(
            f"{name}: there is no branch, tag or commit {revision}; {page} lists them"
        )
    if isinstance(err, errors.HfHubHTTPError):
        status = err.response.status_code
        if status in (401, 403):
            return PermissionError(
                f"{name}: {hub} refuses access (status {status}): {LOGIN} of another account has it"
            )
        kind = UnreachedError if status >= 500 else DownloadError
        return kind(f"{name}: {hub} answers with status {status}; try again later")
    if isinstance(err, errors.HTTPError):
        return UnreachedError(f"{name}: the connection to {hub} failed: {first_line(err)}")
    full = isinstance(err, OSError) and err.errno == errno.ENOSPC
    why = "the disk is full; set HF_HOME to use another place" if full else first_line(err)
    return DownloadError(f"{name} did not arrive: {why}")


def no_hub(name: HubName, why: str) -> DownloadError:
    """Return the error for a server that does not answer as huggingface_hub expects."""
    from huggingface_hub import constants

    hub = constants.ENDPOINT
    return DownloadError(f"{name}: {hub} does not answer as a hub does, see HF_ENDPOINT: {why}")


def not_here(name: HubName, unreached: Exception, missing: Collection[str] = ()) -> OSError:
    """Return the error for a model that is not in the cache and cannot be fetched now.

    Args:
        name: the name of the model.
        unreached: why the hub was not asked.
        missing: the missing files, if others are in the cache.
    """
    from huggingface_hub import constants, errors

    what = f"{', '.join(list(missing)[:4])} of {name}" if missing else str(name)
    why = first_line(unreached).removeprefix(f"{name}: ")
    offline = isinstance(unreached, errors.OfflineModeIsEnabled)
    kind = FileNotFoundError if offline else DownloadError
    return kind(
        f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and {why}; "
        f"llm-scratch fetch {name} gets it where there is a network"
    )
