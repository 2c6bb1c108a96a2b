"""The flags of app.py: what they mean, and what is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nexusquant.config import PRESETS
from nexusquant.engine.devices import DEVICES as ENGINE_DEVICES
from nexusquant.engine.model_loader import DTYPES as ENGINE_DTYPES
from nexusquant.kernels.program_files import FOLDER_VARIABLE
from ui import options
from ui.environment import DataFolderError, prepare_environment
from ui.options import PASSWORD_VARIABLE, default_data_dir, parse_options
from ui.presenters import PRESET_LABELS

ROOT = Path(__file__).resolve().parents[2]
GOOD = "correct horse battery"


def never_asked(prompt: str) -> str:
    raise AssertionError(f"asked: {prompt}")


def refused(capsys, *arguments: str, environment: dict | None = None) -> str:
    with pytest.raises(SystemExit) as end:
        parse_options(arguments, environment or {}, never_asked)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_without_flags_only_this_computer_gets_in():
    chosen = parse_options([], {}, never_asked)
    assert (chosen.host, chosen.port, chosen.passwords) == ("127.0.0.1", 7860, {})
    assert chosen.model is None
    assert chosen.open_browser
    assert not chosen.is_shared


def test_the_preset_is_left_to_the_self_test_unless_one_is_given():
    assert parse_options([], {}, never_asked).preset is None
    assert parse_options(["--preset", "max"], {}, never_asked).preset == "max"


@pytest.mark.parametrize(
    "arguments", [["--lan"], ["--host", "0.0.0.0"], ["--host", "192.168.1.7"], ["--host", "box"]]
)
def test_other_computers_get_in_only_with_a_login(capsys, arguments):
    assert "--user" in refused(capsys, *arguments)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_a_loopback_address_needs_no_login(host):
    assert parse_options(["--host", host], {}, never_asked).host == host


def test_lan_listens_everywhere_for_those_who_log_in():
    chosen = parse_options(
        ["--lan", "--user", "ada"], {"NEXUSQUANT_PASSWORD_ada": GOOD}, never_asked
    )
    assert chosen.host == "0.0.0.0"
    assert chosen.passwords == {"ada": GOOD}
    assert chosen.is_shared


def test_a_password_is_asked_for_when_it_stands_nowhere():
    prompts = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return GOOD

    chosen = parse_options(["--user", "ada", "--user", "bob"], {}, ask)
    assert chosen.passwords == {"ada": GOOD, "bob": GOOD}
    assert prompts == ["Password for ada: ", "Password for bob: "]


def test_passwords_come_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "passwords"
    file.write_text(f"ada:{GOOD}:with colon\n\n", encoding="utf-8")
    chosen = parse_options(
        ["--user", "ada", "--user", "bob", "--password-file", str(file)],
        {"NEXUSQUANT_PASSWORD_BOB": GOOD},
        never_asked,
    )
    assert chosen.passwords == {"ada": f"{GOOD}:with colon", "bob": GOOD}


def test_a_password_on_the_command_line_does_not_exist(capsys):
    assert "unrecognized" in refused(capsys, "--user", "ada", "--password", GOOD)


def test_a_short_password_is_refused_without_repeating_it(capsys):
    environment = {"NEXUSQUANT_PASSWORD_ada": "hunter2"}
    told = refused(capsys, "--user", "ada", environment=environment)
    assert "12 characters" in told
    assert "hunter2" not in told


def test_a_broken_or_missing_password_file_is_explained(capsys, tmp_path):
    file = tmp_path / "passwords"
    assert "passwords" in refused(capsys, "--user", "ada", "--password-file", str(file))
    file.write_text("no colon here")
    told = refused(capsys, "--user", "ada", "--password-file", str(file))
    assert "NAME:PASSWORD" in told
    assert "no colon here" not in told


@pytest.mark.parametrize(
    "arguments",
    [["--port", "0"], ["--port", "70000"], ["--port", "x"], ["--preset", "turbo"],
     ["--device", "tpu"], ["--dtype", "int4"], ["--lan", "--host", "127.0.0.1"], ["--share"],
     ["--gpu-share", "0"], ["--gpu-share", "90"], ["--gpu-share", "all"]],
)  # fmt: skip
def test_a_wrong_value_ends_with_one_sentence(capsys, arguments):
    assert "error:" in refused(capsys, *arguments)


def test_waiting_layers_and_the_share_of_the_gpu_are_left_to_the_system_unless_given():
    plain = parse_options([])
    assert (plain.offload, plain.cuda_graph, plain.gpu_share) == (False, True, None)
    given = parse_options(["--offload", "--no-cuda-graph", "--gpu-share", "0.85"])
    assert (given.offload, given.cuda_graph, given.gpu_share) == (True, False, 0.85)


def test_the_names_written_out_for_help_are_the_engines():
    assert set(options.PRESET_NAMES) == set(PRESETS) == set(PRESET_LABELS)
    assert options.DEVICES == ENGINE_DEVICES
    assert set(options.DTYPES) == {"auto", *ENGINE_DTYPES}


@pytest.mark.parametrize(
    ("platform", "environment", "end"),
    [
        ("win32", {"LOCALAPPDATA": "/users/ada/AppData/Local"}, "Local/Nexusquant"),
        ("darwin", {}, "Library/Application Support/Nexusquant"),
        ("linux", {"XDG_DATA_HOME": "/home/ada/data"}, "/home/ada/data/nexusquant"),
        ("linux", {}, ".local/share/nexusquant"),
    ],
)
def test_data_goes_where_the_system_wants_it(platform, environment, end):
    assert default_data_dir(platform, environment).as_posix().endswith(end)


def test_uploads_can_be_read_by_their_owner_only(tmp_path, monkeypatch):
    monkeypatch.setattr("os.environ", environment := {})
    prepare_environment(tmp_path / "new folder")
    assert (tmp_path / "new folder" / "uploads").stat().st_mode & 0o077 == 0
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environment["GRADIO_TEMP_DIR"].startswith(str(tmp_path))


@pytest.mark.parametrize("place", ["a file", "in a file", "not ours"])
def test_a_data_folder_that_cannot_be_used_is_a_sentence(place, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    # nobody can make a folder there, whoever they are
    not_ours = Path("/proc/nexusquant") if os.path.isdir("/proc") else file / "x"
    data_dir = {"a file": file, "in a file": file / "data", "not ours": not_ours}[place]
    command = [sys.executable, "app.py", "--no-browser", "--data-dir", str(data_dir)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert str(data_dir) in run.stderr
    assert "--data-dir" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_data_folder_that_cannot_be_written_is_a_sentence(number, tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(DataFolderError, match=os.strerror(number)):
        prepare_environment(tmp_path)


def test_a_password_that_nobody_can_be_asked_for_is_a_sentence(capsys):
    def no_terminal(_prompt):
        raise EOFError

    with pytest.raises(SystemExit) as ended:
        parse_options(["--user", "ada"], {}, no_terminal)
    assert ended.value.code == 2
    assert f"{PASSWORD_VARIABLE}ADA" in capsys.readouterr().err


def test_a_password_file_that_is_no_text_is_a_sentence(capsys, tmp_path):
    (tmp_path / "passwords").write_bytes(b"ada:\xff\xfe\x00")
    told = refused(capsys, "--user", "ada", "--password-file", str(tmp_path / "passwords"))
    assert "no text in UTF-8" in told


def test_what_is_compiled_is_kept_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("os.environ", environment := {})
    prepare_environment(tmp_path)
    assert Path(environment[FOLDER_VARIABLE]) == tmp_path / "kernels"
    assert tmp_path in Path(environment["TRITON_CACHE_DIR"]).parents


@pytest.mark.parametrize("place", ["/elsewhere", ""])
@pytest.mark.parametrize(
    ("chosen", "other"),
    [(FOLDER_VARIABLE, "TRITON_CACHE_DIR"), ("TRITON_CACHE_DIR", FOLDER_VARIABLE)],
)
def test_a_folder_for_kernels_that_somebody_chose_is_left(
    chosen, other, place, tmp_path, monkeypatch
):
    monkeypatch.setattr("os.environ", environment := {chosen: place})
    prepare_environment(tmp_path)
    assert environment[chosen] == place
    assert environment[other].startswith(str(tmp_path))


START = """
import pathlib, sys
import app
app.prepare_environment(pathlib.Path(sys.argv[1]))
assert not {"torch", "triton", "gradio"} & sys.modules.keys()
import triton
print(triton.knobs.cache.dir)
"""


def test_triton_takes_the_folder_that_it_is_given_at_the_start(tmp_path):
    pytest.importorskip("triton")
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("TRITON")}
    command = [sys.executable, "-c", START, str(tmp_path)]
    started = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert started.returncode == 0, started.stderr
    assert tmp_path in Path(started.stdout.strip()).parents


def test_help_comes_at_once_and_explains_every_flag():
    command = [sys.executable, "app.py", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert shown.returncode == 0
    for flag in ("--model", "--preset", "--device", "--dtype", "--host", "--port", "--lan",
                 "--offload", "--no-cuda-graph", "--gpu-share", "--user", "--password-file",
                 "--proxy", "--name", "--data-dir", "--no-browser"):  # fmt: skip
        assert flag in shown.stdout
