"""Models fetched from the Hugging Face hub: what an import reads and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mainspring.errors import UsageError, WeightsError

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Weights, settings, and tokenizers in their several layouts; never a pickle, never code."""
UNWANTED = ("*/*",)
"""What stands in folders of a repository is the model again for other programs: ONNX, TensorFlow, ..."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_ID = re.compile(rf"{_NAME}/{_NAME}(?:@[A-Za-z0-9._/-]+)?")


def hub_id(path: str | Path) -> bool:
    """Whether a path that is given for a model is the name of one on the hub.

    It is where nothing of that name is here and it has the form owner/name, or owner/name@revision.
    """
    return not Path(path).exists() and _ID.fullmatch(str(path)) is not None


def fetch(name: str, *, cache: str | Path | None = None, endpoint: str | None = None) -> Path:
    """Bring a model from the hub, or find it where an earlier call put it.

    Args:
        name: owner/name, or owner/name@revision (a branch, a tag or a commit).
        cache: where models are kept (None: huggingface_hub's own place).
        endpoint: address of the hub (None: huggingface_hub's).

    Returns:
        A folder of its files.

    Raises:
        UsageError: there is no such model or revision, it is only for those who asked, or the hub cannot be
            reached and the model was not brought before.
        WeightsError: the model has no weights in safetensors.
    """
    repository, _, revision = name.partition("@")
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision or None,
                cache_dir=cache,
                endpoint=endpoint,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
            )
        )
    except GatedRepoError as error:
        raise UsageError(
            f"{name}: its owners give this model to those who ask: ask on its page, then log in with "
            f"`hf auth login` and import it again"
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(
            f"{name}: the model has no revision {revision!r}; leave it out for the newest"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(
            f"{name}: there is no such folder here, and no such model on the hub; check the spelling "
            f"(owner/name), and log in with `hf auth login` where the model is private"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UsageError(
            f"{name}: there is no such folder here, and the hub cannot be reached to fetch a model of that "
            f"name ({_first_line(error)}); on a machine with a network run `hf download {repository} "
            f"--local-dir DIR`, bring DIR here and import that"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise WeightsError(
            f"{name}: the model has no *.safetensors, and only they are read: a pickled checkpoint can run "
            f"any code when opened. Look for a revision that has them (owner/name@refs/pr/N), or convert it "
            f"once: transformers.AutoModelForPreTraining.from_pretrained({repository!r}).save_pretrained(DIR)"
        )
    return folder


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
