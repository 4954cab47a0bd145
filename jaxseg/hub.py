"""Fetching from the Hugging Face hub, and where converted weights are kept."""

import os
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from jaxseg.cache import cache_directory
from jaxseg.errors import UserError

CONFIGS = ["config.json", "preprocessor_config.json", "probe.json"]
SAFETENSORS = ["model*.safetensors", "model*.safetensors.index.json"]
PICKLES = ["pytorch_model*.bin", "pytorch_model*.bin.index.json"]
VOCABULARIES = ["tokenizer.json", "vocab.txt"]
CONVERSION = 2  # raised when a conversion changes, so that older results are not used again


def fetch(repo: str, revision: str | None = None, local_files_only: bool | None = None) -> Path:
    """A snapshot folder with config, vocabulary and weights, named after its commit.

    Pickled weights are fetched only where a repository has no safetensors.

    Args:
      local_files_only: do not reach for the network; None: as HF_HUB_OFFLINE says.

    Raises:
      UserError: no such repository or revision, no access, or not in the cache when offline.
    """
    offline = _offline() if local_files_only is None else local_files_only
    folder = _snapshot(repo, revision, offline, CONFIGS + VOCABULARIES + SAFETENSORS)
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(repo, revision, offline, CONFIGS + VOCABULARIES + PICKLES)
    return folder


def fetch_vocabulary(
    repo: str, revision: str | None = None, local_files_only: bool | None = None
) -> Path:
    """A snapshot folder with what a tokeniser is read from, if the repository has it.

    Args and errors are those of `fetch`.
    """
    offline = _offline() if local_files_only is None else local_files_only
    return _snapshot(repo, revision, offline, VOCABULARIES)


def _offline() -> bool:
    said = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return said in ("1", "ON", "YES", "TRUE") or constants.HF_HUB_OFFLINE


def _snapshot(repo, revision, offline, patterns) -> Path:
    # The messages say all that there is to say; below them would stand a hundred lines of httpx.
    named = repo if revision is None else f"{repo} at revision {revision}"
    try:
        folder = snapshot_download(
            repo, revision=revision, local_files_only=offline, allow_patterns=patterns
        )
    except GatedRepoError:
        raise UserError(
            f"{named} asks for its terms to be accepted: log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise UserError(
            f"there is no {named} on the Hugging Face hub, nor such a local path (or it is "
            "private: log in with `hf auth login`)"
        ) from None
    except LocalEntryNotFoundError:
        how = "offline mode is on" if offline else "the hub cannot be reached"
        raise UserError(
            f"there is no local folder or file {repo}; as a Hugging Face id, {named} is not in "
            f"the local cache and {how}: mend the path, or fetch it once with a connection"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"cannot fetch {named}: {error}") from None
    return Path(folder)


def converted_folder(repo: str, commit: str) -> Path:
    """Where the native form of a repository's commit is kept."""
    return cache_directory() / "converted" / str(CONVERSION) / repo.replace("/", "--") / commit
