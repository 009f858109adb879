"""What travels to nodes that share no files: files of the user's, and Ray's runtime environment."""

import importlib.util
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

from hyperband.cli.main import main
from hyperband.errors import MachineError, UsageError
from hyperband.launch.ray import code as ray_code
from hyperband.launch.ray.code import Ignored, code_folder, pack, travelling
from hyperband.launch.ray.environment import read_runtime_env, refuse_storage, require_fsspec
from hyperband.launch.ray.sent import paths_of, paths_of_all
from hyperband.launch.ray.token import warnings_of_token
from hyperband.machine.checkpoint_pattern import parse
from hyperband.settings import On, Settings
from hyperband.study.sent_files import SentFiles


@pytest.mark.parametrize(
    ("line", "path", "is_folder", "is_out"),
    [
        ("*.pt", "a/b/x.pt", False, True),
        ("*.pt", "x.pt.py", False, False),
        ("data/", "a/data", True, True),
        ("data/", "data", False, False),
        ("/data", "a/data", True, False),
        ("/data", "data", True, True),
        ("a/*.txt", "a/b.txt", False, True),
        ("a/*.txt", "a/b/c.txt", False, False),
        ("a/*.txt", "z/a/b.txt", False, False),
        ("a/**/z", "a/z", False, True),
        ("a/**/z", "a/b/c/z", False, True),
        ("a/**", "a/b/c", False, True),
        ("**/z", "a/b/z", False, True),
        ("x?z", "xyz", False, True),
        ("x?z", "x/z", False, False),
        ("[!a-c]x", "dx", False, True),
        ("[!a-c]x", "ax", False, False),
        ("a.b", "axb", False, False),
        (r"\#x", "#x", False, True),
        (r"\!x", "!x", False, True),
        ("# x", "# x", False, False),
        ("x  ", "x", False, True),
        ("[z-a]", "z", False, False),
        ("[!]", "!", False, False),
    ],
)
def test_lines_are_read_as_git_reads_them(line: str, path: str, is_folder: bool, is_out: bool) -> None:
    assert Ignored([line]).has(path, is_folder=is_folder) is is_out


def test_later_lines_overrule_earlier_ones() -> None:
    ignored = Ignored(["*.csv", "!keep.csv"])
    assert ignored.has("a/x.csv", is_folder=False)
    assert not ignored.has("a/keep.csv", is_folder=False)


def a_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    for name in (
        "train.py",
        "lib/net.py",
        "lib/__pycache__/net.pyc",
        ".git/config",
        "logs/study/journal.db",
        "runs/lr:0.1/model.pt",
        "runs/notes.txt",
        "big.csv",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_code_travels_and_the_rest_stays(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / ".gitignore").write_text("*.csv\nlib/\n")
    (folder / ".hyperbandignore").write_text("*.csv\n")
    (folder / "train.py").chmod(0o755)
    checkpoints = paths_of_all(parse("runs/{config_id}/**"))
    for other in ("elsewhere/first", "elsewhere/second"):
        (folder / other / "jobs").mkdir(parents=True)
        (folder / other / "journal.db").touch()
    found = travelling(folder, but=[folder / "logs"], checkpoints=checkpoints)
    files = found.files
    assert files == (".gitignore", ".hyperbandignore", "lib/net.py", "runs/notes.txt", "train.py")
    assert found.stays == ("big.csv", "elsewhere/first/", "elsewhere/second/", "logs/")
    told = f"5 files, {found.n_bytes} B, of {folder} travel to the nodes; big.csv, elsewhere/first/, 2 more, "
    assert found.words(2) == f"{told}1 checkpoint by --checkpoints stay here"
    pack(folder, files, tmp_path / "one.zip")
    (folder / "train.py").touch()
    pack(folder, files, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == list(files)
        assert archive.read("lib/net.py") == b"lib/net.py"
        assert archive.getinfo("train.py").external_attr >> 16 & 0o777 == 0o755


@pytest.mark.parametrize("pattern", ["{config_id}/**", "{config_id}.pt", "*/{config_id}*"])
def test_code_travels_also_where_checkpoints_may_lie_anywhere(tmp_path: Path, pattern: str) -> None:
    folder = a_folder(tmp_path)
    (folder / "pretrained.pt").touch()
    assert {"lib/net.py", "pretrained.pt"} <= {
        *travelling(folder, but=[], checkpoints=paths_of_all(parse(pattern))).files
    }


def test_checkpoints_are_known_by_where_jobs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_folder(tmp_path)
    (folder / "lib/runs").mkdir()
    (folder / "lib/runs/x.pt").touch()
    monkeypatch.chdir(folder / "lib")
    settings = Settings(
        script=folder / "lib" / "net.py",
        python=Path(sys.executable),
        logs=folder / "logs",
        on=On.RAY,
        ray_files="sent",
        ray_working_dir=folder,
        ray_token=folder / "ray.token",
        checkpoints="runs/{config_id}.pt",
    )
    (folder / "ray.token").touch()
    (folder / "lib" / "token").symlink_to("../ray.token")
    SentFiles(settings).baggage(tmp_path / "code.zip", folder / "lib")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        names = archive.namelist()
    assert "lib/net.py" in names
    assert "lib/runs/x.pt" not in names
    assert not [name for name in names if "token" in name], "a secret is not for the nodes"


def test_too_much_is_refused_with_what_is_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_folder(tmp_path)
    monkeypatch.setattr(ray_code, "MOST_BYTES", 1 << 20)
    (folder / "data").mkdir()
    (folder / "data" / "images").write_bytes(bytes(3 << 20))
    with pytest.raises(UsageError, match=r"3 MiB of .* \(data/ 3 MiB.*\.hyperbandignore"):
        travelling(folder, but=[], checkpoints=None)


@pytest.mark.parametrize("name", ["caf\udce9.txt", "a\\b.txt", "c:data.txt"])
def test_a_name_that_no_archive_of_rays_takes_is_refused_unless_it_stays(tmp_path: Path, name: str) -> None:
    folder = a_folder(tmp_path)
    (folder / name).touch()
    with pytest.raises(UsageError, match=r"name .*\.hyperbandignore"):
        travelling(folder, but=[], checkpoints=None)
    (folder / ".hyperbandignore").write_text("*.txt\n")
    assert name not in travelling(folder, but=[], checkpoints=None).files


def test_the_script_lies_in_what_travels(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    assert code_folder(folder / "lib" / "net.py", None) == folder / "lib"
    assert code_folder(folder / "lib" / "net.py", folder) == folder
    with pytest.raises(UsageError, match="does not lie in it"):
        code_folder(folder / "train.py", folder / "lib")


def test_a_trials_paths() -> None:
    deep = parse("runs/{config_id}/**")
    words = paths_of(deep, "a*b/c")
    assert words is not None
    matches = re.compile(words).fullmatch
    assert matches("runs/a*b/c/x")
    assert matches("runs/a*b/c/x/y.pt")
    assert not matches("runs/a*b/c")
    assert not matches("runs/axb/c/x")
    assert paths_of(deep, "../x") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1]", "has list, expected an object"),
        ('{"pips": ["x"]}', "did you mean pip"),
        ('{"working_dir": "."}', "--ray-working-dir"),
        ('{"excludes": []}', ".hyperbandignore"),
        ('{"env_vars": {"A": 1}}', "expected text"),
        ('{"pip": 1}', "pip is int, expected list or dict or str"),
        ('{"pip": ["x"], "conda": "y"}', "Ray takes one"),
        ('{"py_modules": ["./x"]}', "expected an URI"),
        ("{", "is no JSON"),
        ('{"pip": "absent.txt"}', r"absent.txt, which cannot be read \(No such file or directory\); a rel"),
        ('{"image_uri": "docker.io/x"}', "start Ray itself in that image"),
        ('{"uv": "absent.txt"}', "uv names .*/absent.txt, which cannot be read"),
        ('{"conda": "absent.yml"}', "conda names .*/absent.yml, which cannot be read"),
        ('{"uv": ["x"], "conda": "y"}', "has uv and conda; Ray takes one"),
        ('{"conda": ["x"]}', "conda is list, expected dict or str"),
    ],
)
def test_a_runtime_environment_that_cannot_be_handed_on_is_refused(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "env.json").write_text(text)
    with pytest.raises(UsageError, match=why):
        read_runtime_env(tmp_path / "env.json")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"uv": ["numpy"]}, None),
        ({"uv": {"packages": ["numpy"]}, "config": {"setup_timeout_seconds": 60}}, None),
        ({"conda": "environment-of-that-name"}, None),
        ({"conda": {"dependencies": ["numpy"]}, "py_modules": ["s3://bucket/module.zip"]}, None),
        ({"pip": "needs.txt"}, {"pip": ["numpy", "torch>=2"]}),
        ({"uv": "needs.txt"}, {"uv": ["numpy", "torch>=2"]}),
        ({"conda": "needs.yml"}, {"conda": {"dependencies": ["numpy"]}}),
    ],
)
def test_what_is_handed_on_is_what_was_said_and_ray_takes_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, object],
    expected: dict[str, object] | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "needs.txt").write_text("numpy\ntorch>=2\n")
    (tmp_path / "needs.yml").write_text("dependencies: [numpy]\n")
    (tmp_path / "env.json").write_text(json.dumps(said))
    found = read_runtime_env(tmp_path / "env.json")
    assert found == (said if expected is None else expected)
    if importlib.util.find_spec("ray") is not None:
        runtime_env = importlib.import_module("ray.runtime_env")
        (tmp_path / "code.zip").touch()
        assert set(found) < set(runtime_env.RuntimeEnv(working_dir=str(tmp_path / "code.zip"), **found))


@pytest.mark.parametrize(
    ("uri", "package"), [("gs://b/c", "gcsfs"), ("s3://b/c", "s3fs"), ("ssh://host/c", "paramiko")]
)
def test_a_package_that_a_storage_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, uri: str, package: str
) -> None:
    def find_spec(name: str) -> str | None:
        return None if name == package else name

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    both = rf"needs {package}, .* '\.\[storage\]' {package}` in .* fsspec {package}`"
    with pytest.raises(MachineError, match=both):
        require_fsspec(uri)


def test_a_runtime_environment_in_yaml_and_in_json(tmp_path: Path) -> None:
    wanted = {"pip": ["numpy"], "env_vars": {"A": "1"}}
    (tmp_path / "env.json").write_text(json.dumps(wanted))
    (tmp_path / "env.yaml").write_text('pip: [numpy]\nenv_vars:\n  A: "1"\n')
    assert read_runtime_env(tmp_path / "env.json") == read_runtime_env(tmp_path / "env.yaml") == wanted
    (tmp_path / "env.yaml").write_text("pip: [numpy\nenv_vars: {}\n")
    with pytest.raises(UsageError, match=r"env.yaml, line 2: this is no YAML: [^\n]*\. A value with : #"):
        read_runtime_env(tmp_path / "env.yaml")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("memory://x", "begins with one of"),
        ("/a/b", "begins with one of"),
        ("s3://", "expected a folder"),
        ("file://a/b", "three slashes"),
        ("ssh://me:secret@host/a", "has a password in it"),
        ("s3://b[1]/x", "is no URI"),
        ("s3://b/x[1]", r"without \*, \[, \] and ::"),
        ("gs://b/runs-*", "without"),
        ("s3://b/a?versionId=1", "expected a folder"),
        ("file:///a::s3://b", "without"),
    ],
)
def test_a_storage_that_cannot_be_is_refused(uri: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as raised:
        refuse_storage(uri, "runs/{config_id}")
    assert "secret" not in str(raised.value)


def test_a_storage_needs_to_know_what_it_keeps() -> None:
    with pytest.raises(UsageError, match="name them with --checkpoints"):
        refuse_storage("s3://bucket/x", None)
    for uri in ("s3://bucket", "file:///a", "gs://b/c", "ssh://me@host:22/a", "ssh://[::1]/a"):
        refuse_storage(uri, "runs/{config_id}")


def test_a_dry_run_refuses_what_can_be_seen_to_be_wrong_without_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each before the script is imported, which is wrong as well; and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('imported')")
    (tmp_path / "wrong.json").write_text('{"pipp": []}')
    for name, mode in (("empty", 0o600), ("open", 0o644)):
        (tmp_path / name).write_text("" if name == "empty" else "0123456789abcdef")
        (tmp_path / name).chmod(mode)
    before = sorted(tmp_path.iterdir())
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "fsspec" else find_spec(name)
    )

    def refused(*words: str, rc: int = 2) -> str:
        assert main(["--on", "ray", *words, "train.py", "--dry-run"]) == rc
        return capfd.readouterr().err

    sent = ("--ray-files", "sent", "--checkpoints", "runs/{config_id}")
    assert "the token of --ray-token cannot be read: " in refused("--ray-token", "nothing")
    assert "the token of --ray-token is empty: " in refused("--ray-token", "empty")
    assert "Is a directory" in refused("--ray-token", ".")
    assert "a token of its own" in refused("--ray-token", "open", "--ray-address", "local")
    assert "imported" in refused("--ray-token", "open")
    told = refused(*sent, "--ray-runtime-env", "nodes.json")
    assert "nodes.json cannot be read (No such file or directory)." in told
    assert told.count("nodes.json") == 1
    assert "did you mean pip?" in refused(*sent, "--ray-runtime-env", "wrong.json")
    assert "begins with one of" in refused(*sent, "--storage", "bucket/runs")
    assert "needs fsspec, which is not installed" in refused(*sent, "--storage", "s3://bucket/runs", rc=1)
    assert sorted(tmp_path.iterdir()) == before
    (warning,) = warnings_of_token(tmp_path / "open")
    assert "mode 0644" in warning
    (tmp_path / "open").chmod(0o600)
    assert warnings_of_token(tmp_path / "open") == warnings_of_token(None) == []
