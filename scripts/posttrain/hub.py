"""Models of a hub: the files of one commit, fetched into a folder, each proven to be as stated.

Nothing else in the workflow asks a hub. `huggingface_hub` speaks to it, so HF_ENDPOINT, HF_TOKEN
and proxies mean what its documentation says. What makes a model is fetched and no more: weights in
safetensors, the config and the tokenizer; pickles and code stay where they are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain import artifacts, models
from posttrain.errors import ModelError
from posttrain.logs import Progress

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@\w[\w./-]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
STATED = "stated_by_hub.json"  # a commit's files never change: asked for once, kept in the folder
MEGABYTE = 1_000_000


def keep_off(environ: MutableMapping[str, str]) -> None:
    """Keep all that is started with `environ` off any hub, but for what calls `let_on`."""
    environ.setdefault("FETCH_OFFLINE", environ.get("HF_HUB_OFFLINE", "0"))
    environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it, so transformers and peft obey too


def let_on(environ: MutableMapping[str, str]) -> None:
    """Undo `keep_off`: as offline as whoever started it all. Before huggingface_hub is imported."""
    environ["HF_HUB_OFFLINE"] = environ["FETCH_OFFLINE"]


def is_name(model: str) -> bool:
    """Tell whether `model` has the form `<org>/<name>`, with or without `@<revision>`."""
    return NAME.fullmatch(model) is not None


def fetch(model: str, folder: str | Path, key: str) -> dict[str, str]:
    """Bring the files of `model` into `folder`; files that are there already are not asked for.

    A transfer that broke off, in this process or in one before, goes on where it stopped.

    Args: model, `<org>/<name>@<commit>`; key, of the config, which messages name.
    Returns: where they come from: {"model": `<org>/<name>`, "commit": 40 hex digits}.
    Raises: ModelError, one line, where `model` names no commit, or the hub cannot be asked, or has
        no such model, or not all that makes a usable one.
    """
    folder = Path(folder)
    name, _, revision = model.partition("@")
    if not COMMIT.fullmatch(revision):
        commit, _ = _ask(name, revision or None, key)
        raise ModelError(
            f"{key}: {model} is not pinned, so the same config could be another model tomorrow; "
            f"today it is that of this commit: write {_yaml(key, f'{name}@{commit}')}"
        )
    stated = _recorded(folder, model)
    if stated is None:
        commit, files = _ask(name, revision, key)
        if commit != revision:
            raise ModelError(
                f"{key}: asked for {model}, the hub gave commit {commit}: it, or a mirror that "
                "stands for it, does not serve this revision"
            )
        stated = {file: files[file] for file in _wanted(files, model, key)}
        artifacts.write_json(folder / STATED, {"model": model, "files": stated})
    models.clear(folder, keep=stated)
    megabytes = -(-sum(file["size"] for file in stated.values()) // MEGABYTE)
    with Progress(megabytes, f"fetching {name}", "MB") as progress:
        count = _Counter(progress)
        for file in stated:
            if _is_as_stated(folder / file, stated[file]):
                count.update(stated[file]["size"])
            else:
                _bring(name, revision, file, stated[file], folder, key, count)
    return {"model": name, "commit": revision}


class _Counter:
    """Counts bytes for a bar of megabytes; to `huggingface_hub` it is a bar of its own."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.bytes = progress, 0

    def __enter__(self) -> "_Counter":
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the bar open: more files follow."""

    def update(self, count: int) -> None:
        before, self.bytes = self.bytes, self.bytes + count
        self.progress.advance(-(-self.bytes // MEGABYTE) - -(-before // MEGABYTE))


def _ask(
    name: str, revision: str | None, key: str
) -> tuple[str, dict[str, dict[str, int | str | None]]]:
    """Return a revision's commit, and of each of its files the size and the hashes it must have.

    A large file's hash is the sha256 of its bytes, a small one's the id that git gives them.
    """
    from huggingface_hub import HfApi

    with _in_one_line(f"{name}@{revision}" if revision else name, key):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        return info.sha, {
            file.rfilename: {
                "size": file.size,
                "sha256": file.lfs.sha256 if file.lfs else None,
                "blob_id": file.blob_id,
            }
            for file in info.siblings
        }


def _wanted(names: Iterable[str], model: str, key: str) -> list[str]:
    """Return those of a repository's files that make the model, sorted.

    Raises: ModelError naming what is missing.
    """
    names = set(names)
    shards = sorted(filter(SHARD.fullmatch, names))
    found = [SINGLE] if SINGLE in names else [INDEX, *shards] if shards else []
    needed = [*models.NEEDED, *(found or [SINGLE])]
    if missing := [file for file in needed if file not in names]:
        others = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".gguf")))
        hint = f" (it has {', '.join(others[:3])}, which are not read)" if others else ""
        raise ModelError(
            f"{key}: {model} lacks {', '.join(missing)}{hint}; use a causal model with weights in "
            "safetensors and a fast tokenizer, or save_pretrained() both into a folder and name "
            "that"
        )
    optional = [file for file in models.OPTIONAL if file in names and file != INDEX]
    return sorted({*needed, *optional})


def _recorded(folder: Path, model: str) -> dict[str, dict[str, Any]] | None:
    """Return what the hub stated of this very model when it was asked; None if it was not."""
    try:
        record = artifacts.read_json(folder / STATED)
        return record["files"] if record["model"] == model else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # a record that cannot be read is made again


def _is_as_stated(path: Path, stated: Mapping[str, Any]) -> bool:
    """Tell whether `path` is a file, and no link to another's, with the bytes that are stated."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != stated["size"]:
        return False
    if stated["sha256"]:
        return artifacts.sha256_file(path) == stated["sha256"]
    return artifacts.git_blob_id(path) == stated["blob_id"]


def _bring(
    name: str,
    commit: str,
    file: str,
    stated: Mapping[str, Any],
    folder: Path,
    key: str,
    count: _Counter,
) -> None:
    """Fetch one file, going on from the part of it that an earlier transfer left."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # Not by hf_hub_download: a part of a file does not outlive its process there.
    url = hf_hub_url(name, file, revision=commit, endpoint=HfApi().endpoint)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a part of a zip is no part
    part = folder / f".{file}.{stated['blob_id']}.part"  # by content: never another file's part
    with artifacts.growing(part, stated["size"]) as (out, had):
        count.update(had)
        with _in_one_line(f"{name}@{commit}", key):
            http_get(
                url,
                out,
                resume_size=had,
                headers=headers,
                expected_size=stated["size"],
                displayed_filename=file,
                tqdm_class=lambda **_: count,
            )
    if not _is_as_stated(part, stated):
        artifacts.remove([part])
        raise ModelError(
            f"{key}: {file} of {name}@{commit} came with other bytes than the hub states; it was "
            "thrown away: run the same command again"
        )
    part.replace(folder / file)


@contextmanager
def _in_one_line(model: str, key: str) -> Iterator[None]:
    """Turn what goes wrong between us and the hub into one line that says what to do."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = HfApi().endpoint
    name, _, revision = model.partition("@")
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except GatedRepoError as error:
        said = f"{hub}/{name} is gated: ask for access on that page, then {log_in}"
        raise ModelError(f"{key}: {said}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        said = f"there is no folder {name} here, and {hub} has no model of that name that you may "
        raise ModelError(f"{key}: {said}read; mend the name, or, if it is private, {log_in}") from (
            error
        )
    except RevisionNotFoundError as error:
        said = f"{hub}/{name} has no revision {revision}; its commits stand at {hub}/{name}/commits"
        raise ModelError(f"{key}: {said}") from error
    except OfflineModeIsEnabled as error:
        said = f"{model} is not here yet and HF_HUB_OFFLINE is set: unset it, or fetch the model "
        raise ModelError(f"{key}: {said}elsewhere and name its folder") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = log_in if status in (401, 403) else "try again later: what has come is kept"
        raise ModelError(f"{key}: {hub} refuses {model} with status {status}; {said}") from error
    except (ValueError, TypeError) as error:  # no JSON, or none of a model
        raise ModelError(
            f"{key}: {hub} does not answer as a hub does; mend HF_ENDPOINT, or the network, if a "
            "page to log in to it stands between"
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{key}: {hub} cannot be reached for {model} ({reason}); run the same command again "
            "once it can: what has come is kept; or name the folder of a model that is here"
        ) from error


def _yaml(key: str, value: str) -> str:
    """Return the YAML, on one line, that sets the dotted `key` of the config."""
    *sections, last = key.split(".")
    text = f"{last}: {value}"
    for section in reversed(sections):
        text = f"{section}: {{{text}}}"
    return text
