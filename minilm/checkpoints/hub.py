"""Finds the local directory of a path or a hub name."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from minilm.errors import CheckpointError, HubError, by_place
from minilm.files.file_names import (
    CONFIG,
    INDEX,
    SENTENCE_FILES,
    TOKENIZER_FILES,
    WEIGHTS,
    check_directory,
    read_shard_index,
)

# the language models in weights/ of minilm's repository, in the order in which `minilm compare`
# shows them
LANGUAGE_MODELS = (
    "bert-mini",
    "distilbert-mini",
    "albert-3x2-mini",
    "albert-mini",
    "albert-1x12-mini",
)
SENTENCE_MODEL = "sentence-mini"
SHIPPED = (*LANGUAGE_MODELS, SENTENCE_MODEL)
_SHIPPED_IN = Path(__file__).parent.parent.parent / "weights"

TIMEOUT = 10.0  # seconds, for the list of a repository's files
VOCABULARIES = ("tokenizer.json", "vocab.txt", "spiece.model")

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
REPOSITORY = re.compile(rf"(?!.*(?:--|\.\.))({_PART}/)?{_PART}(?<!\.git)")


def resolve(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> Path:
    """Finds the local directory of a model, downloading missing files.

    An existing directory is returned as it is: no socket is opened and huggingface_hub is not
    imported. The same holds in a clone of minilm's repository for the short names of the models it
    ships (`SHIPPED`). Anything else that could be a repository's name is looked up on the hub,
    through huggingface_hub: its cache, its tokens, HF_ENDPOINT and HF_HUB_OFFLINE apply. Only files
    that minilm reads are downloaded, never a pickle. Without a connection the cache is used.

    Args:
        path_or_repo: a directory, "bert-mini" or another name of `SHIPPED`, or a hub name such as
            "albert/albert-base-v2".
        revision: branch, tag or commit; None = main.
        subfolder: folder of the model in the directory or repository.
        token: for private and gated repositories; None = the one you are logged in with.
        cache_dir: folder for downloads; None = huggingface_hub's folder.
        local_files_only: use only the cache.
        weights: False = no weights, and config.json is optional, as for a tokenizer.

    Returns:
        The directory.

    Raises:
        CheckpointError: the path does not exist or is not a directory, or weights are damaged.
        HubError: the repository, revision or a file cannot be downloaded; the message says why.
    """
    local = Path(os.path.expanduser(path_or_repo))
    name = os.fspath(path_or_repo)
    if os.path.lexists(local) and name:
        check_directory(local / subfolder)
        return local / subfolder
    if isinstance(path_or_repo, str) and name in SHIPPED and revision is None:
        return _shipped(name) / subfolder
    if not isinstance(path_or_repo, str) or not REPOSITORY.fullmatch(name):
        raise CheckpointError(
            f"The directory {name[:500]!r} does not exist, and it is not the name of a hub "
            "repository such as 'albert/albert-base-v2'. Check the path."
        )
    repository = _connect(name, revision or "main", token, cache_dir, local_files_only)
    repository.folder = f"{subfolder.strip('/')}/" if subfolder else ""
    found = [repository.fetch(CONFIG)]
    if weights:
        _fetch_weights(repository)
    found += [repository.fetch(file) for file in TOKENIZER_FILES]
    for file in SENTENCE_FILES:
        repository.fetch(file)
    paths = [path for path in found if path is not None]
    if not weights and not any(path.name in VOCABULARIES for path in paths):
        raise repository.lacks(f"none of {', '.join(VOCABULARIES)}")
    return paths[0].parent


def _shipped(name: str) -> Path:
    directory = _SHIPPED_IN / name
    if not (directory / CONFIG).is_file():
        raise CheckpointError(
            f"There is no directory {name!r} here. A model of this name is in weights/ of minilm's "
            "repository, which an installed package lacks: work in a clone of the repository, or "
            f"give the path of its weights/{name}."
        )
    return directory


@dataclass
class _Repository:
    """A repository at one revision.

    Attributes:
        name, revision, token, cache_dir: as given by the user.
        files: the names of its files; None if only the cache is used.
        unreachable: why only the cache is used; None with a connection.
        commit: the commit of `revision`, known after the first file.
        folder: the folder of the model, "" or with a "/" at its end.
    """

    name: str
    revision: str
    token: str | bool | None
    cache_dir: str | None
    files: frozenset[str] | None
    unreachable: str | None
    commit: str | None = None
    folder: str = ""

    def fetch(self, file: str) -> Path | None:
        """The local path of a file, downloaded if needed; None if the repository lacks it."""
        import huggingface_hub as hub
        from huggingface_hub.errors import LocalEntryNotFoundError

        file = self.folder + file
        if self.files is not None and file not in self.files:
            return None
        revision = self.commit or self.revision
        before = hub.try_to_load_from_cache(
            self.name, file, cache_dir=self.cache_dir, revision=revision
        )
        try:
            path = Path(
                hub.hf_hub_download(
                    self.name,
                    file,
                    revision=revision,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    local_files_only=self.unreachable is not None,
                )
            )
        except LocalEntryNotFoundError as problem:
            if self.unreachable is not None:
                return None
            raise _error(self.name, self.revision, file, problem.__cause__ or problem) from problem
        except Exception as problem:  # anything that the HTTP library raises
            raise _error(self.name, self.revision, file, problem) from problem
        if before != str(path) and not _intact(path):
            raise HubError(
                f"{file} of {self.name!r} (revision {self.revision}) arrived damaged: its hash is "
                "not the one that the hub announced. It was deleted; try again."
            )
        self.commit = path.parents[file.count("/")].name
        return path

    def lacks(self, what: str) -> HubError:
        """The error for files that are found nowhere."""
        where = f"{self.name!r} (revision {self.revision})"
        where += f", folder {self.folder!r}," if self.folder else ""
        if self.unreachable is None:
            return HubError(f"{where} on the hub has {what}.")
        from huggingface_hub import constants

        return HubError(
            f"{_not_here(self.name)}. As the name of a hub repository, {where} "
            f"has {what} in the cache {self.cache_dir or constants.HF_HUB_CACHE}, and nothing can "
            f"be downloaded: {self.unreachable}. Check the path, or load it once with a connection."
        )


def _connect(
    name: str,
    revision: str,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> _Repository:
    """Asks for the list of files; falls back to the cache if the hub does not answer."""
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    files: frozenset[str] | None = None
    unreachable = None
    if local_files_only:
        unreachable = "local_files_only=True"
    elif constants.HF_HUB_OFFLINE:
        unreachable = "HF_HUB_OFFLINE is set"
    else:
        try:
            info = hub.HfApi().model_info(name, revision=revision, token=token, timeout=TIMEOUT)
            files = frozenset(sibling.rfilename for sibling in info.siblings or [])
        except HfHubHTTPError as problem:
            if problem.response.status_code < 500:
                raise _error(name, revision, None, problem) from problem
            unreachable = _words(problem)
        except Exception as problem:  # anything that the HTTP library raises
            unreachable = _words(problem)
    folder = None if cache_dir is None else os.fspath(cache_dir)
    return _Repository(name, revision, token, folder, files, unreachable)


def _fetch_weights(repository: _Repository) -> None:
    if repository.fetch(CONFIG) is None:
        raise repository.lacks(f"no {CONFIG}")
    if repository.fetch(WEIGHTS) is not None:
        return
    index = repository.fetch(INDEX)
    if index is None:
        if any(file.endswith(".bin") for file in repository.files or ()):
            raise HubError(
                f"{repository.name!r} (revision {repository.revision}) has only pickled weights, "
                "which can run code when they are read; minilm does not download them. If you "
                "trust the repository:\n"
                f"  hf download {repository.name} --revision {repository.revision} "
                "--local-dir SRC\n  minilm convert SRC DST --from-pickle"
            )
        raise repository.lacks(f"neither {WEIGHTS} nor {INDEX}")
    shards = sorted(set(read_shard_index(index).values()))
    missing = [shard for shard in shards if repository.fetch(shard) is None]
    if missing:
        raise repository.lacks(f"no {', '.join(missing)}, which {INDEX} lists,")


def _error(name: str, revision: str, file: str | None, problem: BaseException) -> HubError:
    """The error for a failed download, in the user's terms."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"{file} of {name!r}" if file else repr(name)
    status = problem.response.status_code if isinstance(problem, HfHubHTTPError) else None
    if isinstance(problem, GatedRepoError) or status == 403:
        return HubError(
            f"{what} (revision {revision}) is not open to you: accept the conditions on the "
            f"repository's page, then {_log_in()}."
        )
    if isinstance(problem, RevisionNotFoundError):
        return HubError(f"{name!r} has no revision {revision!r}. Give a branch, tag or commit.")
    if isinstance(problem, RepositoryNotFoundError) or status == 401:
        return HubError(
            f"{_not_here(name)}, and on the hub {what} (revision {revision}) was "
            "not found: no repository of this name that you can see. Check the spelling; for a "
            f"private repository {_log_in()}."
        )
    return HubError(
        f"{_not_here(name)}, and {what} (revision {revision}) could not be "
        f"downloaded from the hub: {_words(problem)}. Try again; files that arrived complete are "
        "kept."
    )


def _not_here(name: str) -> str:
    """Reports that a name is not a directory, and suggests a similar short name."""
    near = difflib.get_close_matches(name, SHIPPED, n=1, cutoff=0.8)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"There is no directory {name!r} here{hint}"


def _log_in() -> str:
    return "log in with `hf auth login`" + by_place(python=" or pass token=...", command="")


def _words(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:300]}" if lines else type(problem).__name__


def _intact(path: Path) -> bool:
    """Compares a new file in the cache with its hash, which is its name; deletes a bad file.

    huggingface_hub compares only sizes, and a server need not announce one.
    """
    if not path.is_symlink():  # a file system without links: the cache keeps no hash
        return True
    blob = path.parent / os.readlink(path)
    size = path.stat().st_size
    git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    plain = hashlib.sha1(usedforsecurity=False)
    # the hub names large files by their SHA-256, others as git does; mirrors may use plain SHA-1
    hashes = {64: [hashlib.sha256()], 40: [git, plain]}.get(len(blob.name), [])
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            for one in hashes:
                one.update(chunk)
    if not hashes or blob.name in [one.hexdigest() for one in hashes]:
        return True
    for name in {path, blob, path.resolve()}:
        name.unlink(missing_ok=True)
    return False
