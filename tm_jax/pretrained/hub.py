"""From ``--init-from DIR_OR_HUB_ID`` to a folder on this machine.

A path that exists is taken as it is.  Anything else of the form ``owner/name`` is a Hub id, fetched by
huggingface_hub into its own cache: safetensors and JSON only, so that no pickle ever reaches this machine.
``owner/name/subfolder`` fetches one part of a pipeline.
"""

import re
from pathlib import Path

from tm_jax.errors import InputError

PATTERNS = ("*.safetensors", "*.json")

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<part>[\w./-]+?))?/?")


def resolve(source: str | Path, skip: tuple[str, ...] = ()) -> Path:
    """The local folder or file of a path or Hub id; a download leaves out the subfolders to skip.

    Raises InputError where the path does not exist, or the Hub has no such model or cannot be reached.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    match = _HUB_ID.fullmatch(str(source))
    if not match or str(source).startswith((".", "/", "~")) or ".." in str(source):
        raise InputError(f"{source} does not exist; give a folder, a safetensors file or a Hub id owner/name")
    folder = _download(match["repo"], match["part"], skip)
    part = folder / match["part"] if match["part"] else folder
    if not part.exists():
        raise InputError(f"{match['repo']} has no {match['part']} with safetensors inside; check the name")
    return part


def _download(repo: str, part: str | None, skip: tuple[str, ...]) -> Path:
    """The snapshot of a Hub repository, fetched or from the cache."""
    import httpx2
    import huggingface_hub
    from huggingface_hub import errors

    # A folder's own files, everything below it, or the one file that the part names.
    patterns = [f"{part}/{pattern}" for pattern in PATTERNS] + [part] if part else list(PATTERNS)
    unreachable = InputError(
        f"{repo} is neither a folder here nor in the Hub's cache, and the Hub cannot be reached; "
        "give a folder, or try again with a network"
    )
    try:
        ignored = [f"{folder}/*" for folder in skip]
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns, ignore_patterns=ignored))
    except errors.GatedRepoError:
        raise InputError(f"{repo} is gated; accept its terms on the Hub and run hf auth login") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{repo} is neither a folder here nor a model on the Hub; check the name") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx2.TransportError):
        raise unreachable from None
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{repo} could not be fetched ({reason}); try again later") from None
    except errors.HFValidationError:
        raise InputError(f"{repo} is neither a folder here nor a valid Hub id; check the name") from None
