"""Set-up and start: what the launcher decides, and that the scripts reach it from any folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from torch_findings import gpu

import launch
import launch_checks as checks
import launch_install as installer

ROOT = Path(__file__).resolve().parent.parent
ODD_FOLDER = "Größe (1) & Leer! 50%"

needs_sh = pytest.mark.skipif(os.name == "nt", reason="launch.sh is for Linux and macOS")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with an odd name that the launcher takes for its own."""
    root = tmp_path / ODD_FOLDER
    (root / "logs").mkdir(parents=True)
    (root / "requirements.txt").write_text("torch==2.13.0\nother>=1\n")
    (root / "requirements-dev.txt").write_text("pytest\n")
    venv = root / ".venv"
    places = {
        "ROOT": root,
        "VENV": venv,
        "PYTHON": venv / installer.PYTHON.relative_to(installer.VENV),
        "STAMP_FILE": venv / "stamp.json",
        "LOG_FILE": root / "logs" / "launch.log",
    }
    for name, place in places.items():
        monkeypatch.setattr(installer, name, place)
        if hasattr(launch, name):
            monkeypatch.setattr(launch, name, place)
    handlers = list(launch.LOG.handlers)
    yield root
    launch.LOG.handlers = handlers


@pytest.fixture
def installs(checkout, monkeypatch):
    """A checkout with a Python 3.12 environment; the list gets one entry per installation."""
    done = []

    def install(with_tests):
        done.append(with_tests)
        return {**installer.wanted_stamp("3.12", with_tests), "driver": False, "notice": ""}

    installer.VENV.mkdir()
    monkeypatch.setattr(installer, "environment_version", lambda: "3.12")
    monkeypatch.setattr(installer, "install", install)
    return done


@pytest.fixture
def steps(checkout, monkeypatch):
    """Record the commands instead of running them; those with a word of `fails` fail."""

    class Steps(list):
        fails: tuple[str, ...] = ()

    recorded = Steps()

    def run_step(command, **_):
        words = [str(word) for word in command]
        recorded.append(words[3:] if words[1:3] == ["-m", "pip"] else words)
        return not any(word in recorded.fails for word in words)

    monkeypatch.setattr(installer, "run_step", run_step)
    return recorded


def script(folder: Path, name: str, text: str) -> Path:
    """Write an executable shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_an_old_card_gets_the_older_build_once(steps, monkeypatch):
    monkeypatch.setattr(installer, "inspect_torch", lambda: gpu(cuda="12.6", arches=["sm_61"]))
    assert installer.gpu_notice("torch==2.13.0", gpu(capability=[6, 1])) != ""
    monkeypatch.setattr(
        installer, "inspect_torch", lambda: gpu(arches=["sm_61"], capability=[6, 1])
    )
    assert installer.gpu_notice("torch==2.13.0", gpu(capability=[6, 1])) == ""
    assert any("cu126" in step for step in steps)


@pytest.mark.parametrize("found", [gpu(cuda="12.6", available=False), gpu(cuda="")])
def test_without_an_older_build_to_try_the_processor_is_used_and_said(steps, found):
    notice = installer.gpu_notice("torch==2.13.0", found)
    assert notice.startswith("The GPU is not used: ")
    assert "runs on the processor" in notice
    assert steps == []


def test_torch_falls_back_to_pip_without_a_download_by_uv(steps):
    steps.fails = ("--dry-run",)
    installer.install_torch("torch==2.13.0", checks.torch_routes(False, "Linux"))
    uv_steps = [step for step in steps if "uv" in step]
    assert all("--dry-run" in step for step in uv_steps)
    assert len(uv_steps) == 1
    assert steps[-1][0] == "install"
    assert steps[-1][-1] == "torch==2.13.0"


def test_a_broken_download_is_tried_again(steps):
    steps.fails = ("--reinstall-package",)
    assert not installer.uv_install_torch("torch==2.13.0", "auto")
    assert sum("--reinstall-package" in step for step in steps) == 2


def test_no_way_to_get_torch_is_said_plainly(steps):
    steps.fails = ("install",)
    with pytest.raises(installer.LaunchError, match="internet"):
        installer.install_torch("torch==2.13.0", checks.torch_routes(True, "Linux"))


def test_too_little_disk_is_said_before_anything_is_downloaded(steps, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=10**9)
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(installer.LaunchError, match="needs 10 GB"):
        installer.install_torch("torch==2.13.0", checks.torch_routes(True, "Windows"))
    assert steps == []


@pytest.mark.parametrize(
    ("installed", "has_driver", "is_kept"),
    [
        ({"version": "2.13.0+cpu", "cuda": ""}, False, True),
        (gpu(), True, True),
        ({"version": "2.13.0+cpu", "cuda": ""}, True, False),
        ({"version": "2.12.0", "cuda": ""}, False, False),
    ],
)
def test_a_torch_that_fits_is_kept(steps, monkeypatch, installed, has_driver, is_kept):
    monkeypatch.setattr(checks, "has_nvidia_driver", lambda: has_driver)
    monkeypatch.setattr(installer, "inspect_torch", lambda: installed)
    stamp = installer.install(with_tests=False)
    assert any("torch==2.13.0" in step for step in steps) is not is_kept
    assert stamp["driver"] is has_driver
    # the list with torch's pin is always given, so that nothing else can replace torch
    assert steps[-1][-2:] == ["-r", str(installer.ROOT / "requirements.txt")]


def test_a_torch_that_does_not_load_is_an_error(steps, monkeypatch):
    monkeypatch.setattr(checks, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(installer, "inspect_torch", lambda: {"error": "DLL load failed"})
    with pytest.raises(installer.LaunchError, match="DLL load failed"):
        installer.install(with_tests=False)


def test_a_second_start_installs_nothing(installs):
    first = installer.set_up(with_tests=False, repair=False)
    assert installer.set_up(with_tests=False, repair=False) == first
    assert installs == [False]


def test_tests_add_their_packages_once_and_the_app_does_not_need_them(installs):
    installer.set_up(with_tests=False, repair=False)
    for _ in range(2):
        installer.set_up(with_tests=True, repair=False)
        installer.set_up(with_tests=False, repair=False)
    assert installs == [False, True]


def test_changed_requirements_are_installed(installs, checkout):
    installer.set_up(with_tests=True, repair=False)
    (checkout / "requirements-dev.txt").write_text("pytest>1\n")
    installer.set_up(with_tests=False, repair=False)
    assert installs == [True]
    installer.set_up(with_tests=True, repair=False)
    (checkout / "requirements.txt").write_text("torch==2.14.0\n")
    installer.set_up(with_tests=False, repair=False)
    assert installs == [True, True, False]


@pytest.mark.parametrize("name", ["LAUNCHER_VERSION", "environment_version"])
def test_another_launcher_or_python_installs_again(installs, monkeypatch, name):
    installer.set_up(with_tests=False, repair=False)
    monkeypatch.setattr(installer, name, 99 if name == "LAUNCHER_VERSION" else lambda: "3.13")
    installer.set_up(with_tests=False, repair=False)
    assert installs == [False, False]


def test_an_interrupted_set_up_leaves_no_stamp_and_goes_on_next_time(installs, monkeypatch):
    installer.set_up(with_tests=False, repair=False)
    (installer.ROOT / "requirements.txt").write_text("torch==2.14.0\n")

    def interrupted(with_tests):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(installer, "install", interrupted)
        installer.set_up(with_tests=False, repair=False)
    assert installer.read_stamp() == {}
    installer.set_up(with_tests=False, repair=False)
    assert installs == [False, False]


def test_repair_makes_the_environment_anew_and_installs_again(installs, steps):
    installer.set_up(with_tests=False, repair=False)
    installer.set_up(with_tests=False, repair=True)
    assert installs == [False, False]
    assert [step[1:] for step in steps] == [["-m", "venv", "--clear", str(installer.VENV)]]


@pytest.mark.parametrize("text", ["", "{", "nothing"])
def test_a_damaged_stamp_counts_as_none(installs, text):
    installer.STAMP_FILE.write_text(text)
    installer.set_up(with_tests=False, repair=False)
    assert installs == [False]


def test_two_set_ups_at_once_are_refused(installs):
    with installer.only_one_set_up(), pytest.raises(installer.LaunchError, match="wait"):
        installer.set_up(with_tests=False, repair=False)
    installer.set_up(with_tests=False, repair=False)
    assert installs == [False]


def test_an_environment_is_made_in_an_odd_folder_and_made_anew_when_broken(checkout, monkeypatch):
    monkeypatch.setattr(installer, "install", lambda _: {"launcher": 0})
    installer.set_up(with_tests=False, repair=False)
    version = "{}.{}".format(*sys.version_info)
    assert installer.environment_version() == version
    shutil.rmtree(next(installer.VENV.rglob("pip")))
    assert installer.environment_version() == ""
    installer.set_up(with_tests=False, repair=False)
    assert installer.environment_version() == version


@pytest.fixture
def ready(checkout, monkeypatch):
    """A checkout whose environment is complete: the Python that runs the tests."""
    stamp = {"notice": "", "driver": True}
    monkeypatch.setattr(launch, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(installer, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(launch, "set_up", lambda *_: stamp)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    monkeypatch.setattr(checks, "folder_problem", lambda *_: "")
    return checkout, stamp


def write_app(root: Path, text: str) -> None:
    (root / "app.py").write_text(f"import os, sys\nfrom pathlib import Path\n{text}\n")


def test_the_app_gets_its_arguments_and_the_folder_of_the_user(ready, monkeypatch, tmp_path):
    root, _ = ready
    monkeypatch.chdir(tmp_path)
    write_app(root, "Path('seen').write_text(repr(sys.argv[1:]))")
    arguments = ["--model", "a b", "ü&!", "--no-browser"]
    assert launch.main([*arguments, "--repair"]) == 0
    assert (tmp_path / "seen").read_text() == repr(arguments)


def test_an_app_that_fails_gives_one_sentence_and_its_words_are_in_the_log(ready, capsys):
    root, _ = ready
    write_app(root, "sys.exit('something broke: ö')")
    assert launch.main([]) == 1
    shown = capsys.readouterr().err
    assert "Nexusquant ended with an error (exit code 1)." in shown
    assert str(installer.LOG_FILE) in shown
    assert "something broke: ö" in installer.LOG_FILE.read_text(encoding="utf-8")


def test_a_gpu_that_torch_cannot_use_is_hidden_from_the_app(ready, monkeypatch):
    root, stamp = ready
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    write_app(root, "sys.exit(3 if os.environ.get('CUDA_VISIBLE_DEVICES') == '-1' else 4)")
    assert launch.start([root / "app.py"], stamp) == 4
    assert launch.start([root / "app.py"], {**stamp, "notice": "The GPU is not used"}) == 3


def test_the_tests_run_in_the_checkout_and_pass_their_exit_code_on(ready):
    root, _ = ready
    (root / "test_it.py").write_text("def test_a():\n    assert 1 == 1\n")
    options = ["-q", "-p", "no:cacheprovider", "test_it.py"]
    assert launch.main(["--test", *options]) == 0
    assert launch.main(["--test", *options, "-k", "nothing_like_it"]) == 5


def test_help_shows_both_sets_of_options_and_installs_nothing(ready, monkeypatch, capsys):
    root, _ = ready
    monkeypatch.setattr(launch, "set_up", lambda *_: pytest.fail("help must not install"))
    write_app(root, "print('--preset NAME')")
    assert launch.main(["--help"]) == 0
    write_app(root, "import missing_module")
    assert launch.main(["--help"]) == 0
    first, second = capsys.readouterr().out.split("usage:")[1:]
    assert "--repair" in first and "--preset NAME" in first
    assert "after the first start" in second


def test_a_folder_that_cannot_be_written_is_said_plainly(ready, capsys):
    root, _ = ready
    (root / "logs").rmdir()
    (root / "logs").write_text("a file where the folder should be")
    assert launch.main([]) == 1
    assert "Nothing can be written here" in capsys.readouterr().err


def test_children_get_what_must_be_set_before_imports(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    child = installer.child_environment()
    assert child["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert child["HF_HUB_DISABLE_TELEMETRY"] == child["PYTHONUTF8"] == "1"
    assert "PYTHONPATH" not in child
    monkeypatch.setattr(installer.platform, "system", lambda: "Windows")
    assert "PYTORCH_CUDA_ALLOC_CONF" not in installer.child_environment()
    monkeypatch.setattr(installer.platform, "system", lambda: "Linux")
    assert "expandable" in installer.child_environment()["PYTORCH_CUDA_ALLOC_CONF"]


def run_script(tmp_path: Path, python: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run launch.sh in an odd folder, with nothing on PATH but a stand-in for Python."""
    folder, programs = tmp_path / ODD_FOLDER, tmp_path / "pro grams"
    folder.mkdir()
    shutil.copy(ROOT / "launch.sh", folder)
    (folder / "launch.py").touch()
    programs.mkdir()
    for name in ("dirname", "uname"):
        (programs / name).symlink_to(shutil.which(name))
    if python:
        script(programs, "python3", python)
    options = {"capture_output": True, "text": True, "env": {"PATH": str(programs)}}
    return subprocess.run([folder / "launch.sh", *arguments], **options)


@needs_sh
def test_the_script_hands_over_from_an_odd_folder(tmp_path):
    python = 'case $1 in -c) exit 0 ;; esac\nfor word; do echo "<$word>"; done\nexit 7'
    result = run_script(tmp_path, python, "--test", "a b", "ü", "$x")
    words = ["-E", "-s", "-X", "utf8", f"{tmp_path / ODD_FOLDER}/launch.py"]
    expected = [f"<{word}>" for word in [*words, "--test", "a b", "ü", "$x"]]
    assert result.stdout.splitlines() == expected
    assert result.returncode == 7


@needs_sh
@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ("", "there is none here"),
        ("3.8.10", "only 3.8.10 is here"),
        ("3.15.0", "only 3.15.0 is here"),
        ("3.12.1", "Python 3.12.1 is here, but without its venv module"),
    ],
)
def test_the_script_says_what_to_install(tmp_path, found, sentence):
    python = f"case $2 in *print*) echo {found} ;; *) exit 1 ;; esac" if found else ""
    result = run_script(tmp_path, python)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "sudo apt install python3 python3-venv" in result.stderr


@needs_sh
def test_the_script_accepts_the_python_that_runs_the_tests(tmp_path):
    python = f'case $1 in -c) exec "{sys.executable}" "$@" ;; esac\necho handed over'
    assert run_script(tmp_path, python).stdout == "handed over\n"


def test_the_batch_file_is_safe_for_odd_paths():
    data = (ROOT / "launch.bat").read_bytes()
    text = data.decode("ascii")
    assert data.count(b"\n") == data.count(b"\r\n") > 20
    assert "DisableDelayedExpansion" in text
    paths = ("%HERE", "%PYEXE%", "%~dp0", "%ALIAS")
    for line in text.splitlines():
        # a path stands in quotes only, never in a block, never in a second expansion by call
        assert not any(path in re.sub(r'"[^"]*"', "", line) for path in paths), line
        assert not line.rstrip().endswith("("), line
        assert "call" not in line.split() or not any(path in line for path in paths), line
