"""What a user hands on to nodes that share no files with us: Ray's runtime environment, and a storage's URI.

Owns which of their words are refused, and why. Must not know Ray itself.
"""

import difflib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hyperband.errors import MachineError, UsageError
from hyperband.launch.named_files import no_yaml, read_text

#: Ray's own keys that are handed on, and what each may be
_KEYS: Mapping[str, tuple[type, ...]] = {
    "pip": (list, dict, str),
    "uv": (list, dict, str),
    "conda": (dict, str),
    "env_vars": (dict,),
    "py_modules": (list,),
    "config": (dict,),
}
#: Ray's keys that are ours to say, and how
_OURS = {
    "working_dir": "name the folder with --ray-working-dir",
    "excludes": "name what stays in .hyperbandignore, in the folder that travels",
    "py_executable": "name the interpreter with --python",
    "image_uri": "start Ray itself in that image on the nodes (Ray takes no code along into an image)",
}
#: of these only one may say which packages there are
_OF_PACKAGES = ("pip", "uv", "conda")
#: what is fetched and made on a node before a slot begins there
SLOW_KEYS = (*_OF_PACKAGES, "py_modules")
#: protocols of storages, and what has to be installed for them
_PROTOCOLS = {
    "file": "",
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "ssh": "paramiko",
    "sftp": "paramiko",
}


def read_runtime_env(path: Path) -> dict[str, Any]:
    """Return what a file says of Ray's runtime environment.

    Args:
        path: of a JSON file if it ends so, else of a YAML file.

    Raises:
        UsageError: it cannot be read, or says what cannot be handed on.
        MachineError: PyYAML is not installed.
    """
    name = f"--ray-runtime-env {path}"
    found = _parsed(path, read_text(path, name), name)
    if not isinstance(found, dict):
        raise UsageError(
            f"--ray-runtime-env {path} has {type(found).__name__}, expected an object with keys of Ray's "
            f"runtime environment: {', '.join(_KEYS)}"
        )
    for key, value in found.items():
        if key in _OURS:
            raise UsageError(f"--ray-runtime-env {path} has {key}: leave it out there, and {_OURS[key]}")
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"--ray-runtime-env {path} has {key!r}, expected one of {', '.join(_KEYS)}{hint}"
            )
        if not isinstance(value, _KEYS[key]):
            wanted = " or ".join(one.__name__ for one in _KEYS[key])
            raise UsageError(f"--ray-runtime-env {path}: {key} is {type(value).__name__}, expected {wanted}")
    for name, value in found.get("env_vars", {}).items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise UsageError(
                f"--ray-runtime-env {path}: env_vars has {name!r}: {value!r}, expected text, quoted"
            )
    for module in found.get("py_modules", []):
        if not (isinstance(module, str) and urlsplit(module).scheme):
            raise UsageError(
                f"--ray-runtime-env {path}: py_modules has {module!r}, expected an URI, such as s3://"
            )
    of_packages = [key for key in _OF_PACKAGES if key in found]
    if len(of_packages) > 1:
        raise UsageError(f"--ray-runtime-env {path} has {' and '.join(of_packages)}; Ray takes one of them")
    return {key: _with_content(path, key, value) for key, value in found.items()}


def _with_content(path: Path, key: str, value: object) -> object:
    """Return what a key says; where it names a file, what that says: it may change from start to start."""
    is_file = key in ("pip", "uv") or (key == "conda" and str(value).endswith((".yml", ".yaml")))
    if not isinstance(value, str) or not is_file:
        return value
    named = Path(value).expanduser().absolute()
    name = f"--ray-runtime-env {path}: {key} names {named}, which"
    text = read_text(named, name, "a relative path begins where the search is started")
    return _parsed(named, text, name.removesuffix(", which")) if key == "conda" else text.strip().split("\n")


def _parsed(path: Path, text: str, name: str) -> object:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as err:
            raise UsageError(f"{name} is no JSON: {err}") from err
    if importlib.util.find_spec("yaml") is None:
        raise MachineError(
            f"{name} needs PyYAML, which is not installed; install it (`pip install "
            "PyYAML`), or write the file as JSON, with a name that ends with .json"
        )
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise no_yaml(err, name) from err


#: what fsspec takes for more than one place
_PATTERNS = ("*", "[", "]", "::")


def refuse_storage(uri: str | None, checkpoints: str | None, *, removes: bool = False) -> None:
    """Raise for a storage that cannot be used.

    Args:
        uri: of `--storage`.
        checkpoints: of `--checkpoints`.
        removes: checkpoints that nobody wants any more are to be removed, on nodes that share no files.

    Raises:
        UsageError: it is no URI that is known, or has a password in it; or there is none to remove from.
    """
    if uri is None:
        if removes:
            raise UsageError(
                "--keep-checkpoints removes files from a storage, where the nodes share none; add "
                "--storage, or leave it out: what stays on the disks of nodes is yours to remove."
            )
        return
    if checkpoints is None:
        raise UsageError(
            "--storage keeps checkpoints, but which files those are is not known; name them with "
            "--checkpoints, for example --checkpoints 'runs/{config_id}/**'."
        )
    try:
        parts = urlsplit(uri)
    except ValueError as err:
        raise UsageError(f"--storage is {uri!r}, which is no URI: {err}.") from err
    if parts.scheme not in _PROTOCOLS:
        names = ", ".join(f"{name}://" for name in _PROTOCOLS)
        raise UsageError(f"--storage is {uri!r}, expected an URI that begins with one of {names}.")
    if parts.password is not None:
        raise UsageError(
            "--storage has a password in it, which would be written into the journal; put it where the "
            "nodes look for it themselves: their environment, or the protocol's own files, such as ~/.aws "
            "or ~/.ssh."
        )
    if any(sign in parts.path for sign in _PATTERNS):
        signs = f"{', '.join(_PATTERNS[:-1])} and {_PATTERNS[-1]}"
        raise UsageError(
            f"--storage is {uri!r}, expected a path without {signs}, which may stand for several places, "
            "also where files are removed."
        )
    if parts.query or parts.fragment or not parts.path.strip("/") + parts.netloc:
        raise UsageError(f"--storage is {uri!r}, expected a folder, such as s3://BUCKET/checkpoints.")
    if parts.scheme == "file" and parts.netloc:
        raise UsageError(f"--storage is {uri!r}, expected three slashes: file:///PATH.")


def require_fsspec(uri: str) -> None:
    """Raise if this machine cannot speak a storage's protocol: old checkpoints are removed from here.

    Raises:
        MachineError: something has to be installed.
    """
    needed = _PROTOCOLS[urlsplit(uri).scheme]
    for module in ("fsspec", needed):
        if module and importlib.util.find_spec(module) is None:
            also = f" {needed}" if needed else ""
            raise MachineError(
                f"--storage {uri} needs {module}, which is not installed; install it here, with the extra "
                f"[storage] (`pip install '.[storage]'{also}` in hyperband's folder), and on the nodes "
                f"(`pip install fsspec{also}`)"
            )
