"""The reader process: whatever it does, the app gets messages or a sentence, and it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from reader_processes import reader_processes

from nexusquant.documents import FileReader, PasswordError
from nexusquant.documents.worker import ReaderEndedError, Reading, ReadingStoppedError, Turns
from nexusquant.documents.worker import process as process_module
from nexusquant.errors import DocumentError

ROOT = Path(__file__).resolve().parents[2]
# generous: the machine may be busy
SOON_S = 20.0

ReadWith = Callable[..., list[dict[str, Any]]]


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not is_so():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert reader_processes() == []


@pytest.fixture
def read_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadWith:
    """Run the body of a `read` in the real process; gives what it yields."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(body: str, is_wanted: Callable[[], bool] | None = None) -> list[dict[str, Any]]:
        lines = ["import ctypes, os, sys, time", "def read(request):"]
        lines += [f"    {line}" for line in textwrap.dedent(body).strip().split("\n")]
        (tmp_path / "a_reader.py").write_text("\n".join(lines))
        return list(Reading(1000, is_wanted).messages("a_reader", {"word": "vise"}))

    return run


@pytest.fixture
def answer_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadWith:
    """Run another program in the process's place; gives what it says."""

    def run(body: str) -> list[dict[str, Any]]:
        script = tmp_path / "main.py"
        script.write_text("import os, sys, time\nout = sys.stdout.buffer\n" + body)
        monkeypatch.setattr(process_module, "MAIN", script)
        return list(Reading(1000).messages("any", {}))

    return run


def test_what_is_yielded_arrives_in_order(read_with: ReadWith) -> None:
    body = "yield {'text': request['word']}\nyield {'text': 'lone \\ud83d', 'more': [1, None]}"
    assert read_with(body) == [{"text": "vise"}, {"text": "lone \ud83d", "more": [1, None]}]


def test_it_starts_without_torch_and_without_the_package(read_with: ReadWith) -> None:
    body = """
    import nexusquant.documents.document
    yield {'names': sorted({'torch', 'transformers', 'gradio', 'numpy'} & set(sys.modules))}
    """
    assert read_with(body) == [{"names": []}]


def test_what_libraries_print_does_not_get_between_messages(read_with: ReadWith) -> None:
    body = """
    print('{"text": "printed"}', flush=True)
    os.write(1, b'{"text": "written"}\\n')
    yield {'text': 'yielded'}
    """
    assert read_with(body) == [{"text": "yielded"}]


def test_refusals_arrive_as_they_were_raised(read_with: ReadWith) -> None:
    head = "from nexusquant.documents.document import PasswordError\n"
    head += "from nexusquant.errors import DocumentError\nyield {}\n"
    with pytest.raises(PasswordError, match=r"^locked$"):
        read_with(head + "raise PasswordError('locked')")
    with pytest.raises(DocumentError, match=r"^no$") as caught:
        read_with(head + "raise DocumentError('no')")
    assert type(caught.value) is DocumentError


@pytest.mark.parametrize(
    "body",
    [
        "yield {}; os.abort()",
        "yield {}; os._exit(0)",
        "yield {}; ctypes.string_at(0)",
        "yield {}; raise ValueError('x')",
        "yield {}; raise SystemExit(0)",
        "yield {}; raise KeyboardInterrupt",
        "yield {'not JSON': {1, 2}}",
        "yield {}; os.kill(os.getpid(), 9)",
        "f = lambda n: f(n + 1)\nyield {'never': f(0)}",
    ],
)
def test_a_crash_is_told(read_with: ReadWith, body: str) -> None:
    with pytest.raises(ReaderEndedError, match="damaged") as caught:
        read_with(body)
    assert caught.value.why == "crashed"


@pytest.mark.parametrize("loop", ["while True: pass", "time.sleep(600)", "sum(range(10**12))"])
def test_an_endless_loop_is_ended(
    read_with: ReadWith, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr(process_module, "_MAX_SILENCE_S", 2.0)
    start = time.monotonic()
    with pytest.raises(ReaderEndedError, match="no progress") as caught:
        read_with(f"yield {{}}\n{loop}")
    assert caught.value.why == "silent"
    assert time.monotonic() - start < SOON_S


def test_a_file_that_goes_on_and_on_is_ended(
    read_with: ReadWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_START_S", 1.5)
    with pytest.raises(DocumentError, match="took too long and was stopped"):
        read_with("while True: time.sleep(0.05); yield {'text': 'a'}")
    with pytest.raises(DocumentError, match="took too long and was stopped"):
        read_with("while True: yield {'text': 'a'}")


def test_time_grows_with_the_file_up_to_minutes() -> None:
    # read from the outside: what a small and a huge file may take, in seconds
    limits = []
    for num_bytes in (1000, 200_000_000):
        reading = Reading(num_bytes)
        with pytest.raises(ReaderEndedError):
            list(reading.messages("no.such.module", {}))
        limits.append(reading._deadline - time.monotonic())
    assert 10 < limits[0] < 20
    assert 250 < limits[1] < 301


def test_waiting_for_a_turn_takes_nothing_from_the_time(read_with: ReadWith) -> None:
    reading = Reading(1000)
    reading.check_wanted()
    assert reading._deadline is None


@pytest.mark.parametrize(
    "body",
    [
        "yield {}\nblocks = []\nwhile True: blocks.append(bytearray(10**7))",
        "yield {}\nyield {'size': len('x' * 10**10)}",
        "yield {}\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\n"
        "while p := libc.malloc(10**7): libc.memset(ctypes.c_void_p(p), 1, 10**7)\nos.abort()",
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the system's own limit is Linux's")
def test_memory_beyond_the_limit_is_refused(read_with: ReadWith, body: str) -> None:
    with pytest.raises(ReaderEndedError, match="more memory than one file may use") as caught:
        read_with(body)
    assert caught.value.why == "memory"


def test_memory_is_watched_where_the_system_has_no_limit(
    answer_with: ReadWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_MEMORY_BYTES", 150 * 1024**2)
    body = "blocks = []\nwhile True: blocks.append(b'x' * 10**6); time.sleep(0.001)"
    with pytest.raises(ReaderEndedError, match="more memory") as caught:
        answer_with(body)
    assert caught.value.why == "memory"


def test_more_text_than_allowed_is_refused(
    read_with: ReadWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_MAX_CHARACTERS", 1_000_000)
    with pytest.raises(DocumentError, match="holds more than 1 million characters"):
        read_with("while True: yield {'text': 'x' * 10_000}")


@pytest.mark.parametrize(
    "body",
    [
        "out.write(b'garbage\\n')",
        "out.write(b'[1, 2]\\n')",
        "out.write(b'null\\n')",
        "out.write(b'\\xff\\xfe\\x00\\n')",
        'out.write(b\'{"text": "half\')',
        "out.write(b'[' * 100_000 + b'\\n')",
        "out.write(b'{\"a\":' * 100_000 + b'\\n')",
        "out.write(b'{\"n\": ' + b'9' * 10_000 + b'}\\n')",
        "out.write(b'\\n')",
        "os.close(1)\ntime.sleep(600)",
        "os.close(0)",
        "raise SystemExit(3)",
        "out.write(b'x' * (33 << 20))",
    ],
)
def test_what_is_no_message_is_told_as_a_crash(answer_with: ReadWith, body: str) -> None:
    with pytest.raises(ReaderEndedError, match="damaged") as caught:
        answer_with(body)
    assert caught.value.why == "crashed"


def test_a_program_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module.sys, "executable", "/no/such/python")
    with pytest.raises(DocumentError, match="could not be started: No such file"):
        list(Reading(1).messages("any", {}))


def test_reading_stops_when_nobody_wants_it(read_with: ReadWith) -> None:
    started = time.monotonic()
    with pytest.raises(ReadingStoppedError, match="no longer wanted"):
        read_with("yield {}\ntime.sleep(600)", lambda: time.monotonic() - started < 1.0)
    assert time.monotonic() - started < SOON_S
    assert reader_processes() == []


def test_the_process_ends_when_its_reader_is_closed(tmp_path: Path, read_with: ReadWith) -> None:
    read_with("yield {}")
    (tmp_path / "a_reader.py").write_text("def read(request):\n  while True: yield {}\n")
    messages = Reading(1000).messages("a_reader", {})
    assert next(messages) == {}
    assert len(reader_processes()) == 1
    messages.close()
    assert reader_processes() == []


@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
@pytest.mark.parametrize("loop", ["while True: pass", "time.sleep(600)"])
def test_the_process_dies_with_its_parent(tmp_path: Path, loop: str) -> None:
    (tmp_path / "a_reader.py").write_text(
        f"import os, time\ndef read(request):\n    yield {{'pid': os.getpid()}}\n    {loop}\n"
    )
    code = (
        "from nexusquant.documents.worker import Reading\n"
        "for message in Reading(10).messages('a_reader', {}): print(message['pid'], flush=True)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=-1, env=environment)
    try:
        reader = psutil.Process(int(parent.stdout.readline()))
        assert reader.is_running()
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate()
    wait_until(lambda: not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE)


def test_turns_come_in_the_order_of_asking() -> None:
    turns, came = Turns(), []
    threads = []
    with turns.take(lambda: None):
        for number in range(6):

            def wait(number: int = number) -> None:
                with turns.take(lambda: None):
                    came.append(number)

            threads.append(threading.Thread(target=wait))
            threads[-1].start()
            wait_until(lambda number=number: len(turns._waiting) == number + 1)
        assert came == []
    for thread in threads:
        thread.join(SOON_S)
    assert came == [0, 1, 2, 3, 4, 5]


def test_who_leaves_while_waiting_gives_the_place_to_the_next() -> None:
    turns, told = Turns(), []

    def leave() -> None:
        raise ReadingStoppedError("gone")

    def wait(check: Callable[[], None], word: str) -> None:
        try:
            with turns.take(check):
                told.append(word)
        except ReadingStoppedError:
            told.append("left")

    with turns.take(lambda: None):
        leaver = threading.Thread(target=wait, args=(leave, "never"))
        stayer = threading.Thread(target=wait, args=(lambda: None, "stayed"))
        leaver.start()
        leaver.join(SOON_S)
        stayer.start()
        assert told == ["left"]
    stayer.join(SOON_S)
    assert told == ["left", "stayed"]
    assert not turns._waiting


def test_an_error_in_a_turn_gives_it_on() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.take(lambda: None):
        raise KeyError
    with turns.take(lambda: None):
        pass


def use_slow_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import json, sys, time\npath = json.loads(sys.stdin.readline())['request']['path']\n"
        f"print(json.dumps({{'num_pages': 1}}), flush=True)\ntime.sleep({seconds})\n"
        "print(json.dumps({'text': path}), flush=True)\nprint('{\"is_done\": true}', flush=True)\n"
    )
    monkeypatch.setattr(process_module, "MAIN", script)


def test_many_files_at_once_are_read_one_after_the_other(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_slow_program(tmp_path, monkeypatch, 0.4)
    reader, most, texts = FileReader(), 0, []
    paths = [save(f"{number}.pdf", b"%PDF-") for number in range(4)]

    def read(path: Path) -> None:
        texts.append(reader.extract(path).pages[0].text)

    threads = [threading.Thread(target=read, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(reader_processes()))
        time.sleep(0.02)
    assert texts == [str(path) for path in paths]
    assert most == 1


def test_a_page_that_leaves_ends_its_reading_and_lets_the_next_one_in(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_slow_program(tmp_path, monkeypatch, 600)
    reader, has_left, ended = FileReader(), threading.Event(), []

    def read() -> None:
        try:
            reader.extract(save("a.pdf", b"%PDF-"), is_wanted=lambda: not has_left.is_set())
        except ReadingStoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: len(reader_processes()) == 1)
    # somebody who waits behind it leaves too, and never starts a process
    with pytest.raises(ReadingStoppedError):
        reader.extract(save("b.pdf", b"%PDF-"), is_wanted=lambda: False)
    has_left.set()
    thread.join(SOON_S)
    assert len(ended) == 1
    assert reader_processes() == []
    use_slow_program(tmp_path, monkeypatch, 0)
    assert len(reader.extract(save("c.pdf", b"%PDF-")).pages) == 1


@pytest.mark.parametrize(
    "first",
    ["{}", "{'num_pages': 'x'}", "{'num_pages': None}", "{'num_pages': 1.5}", "{'num_pages': []}"],
)
def test_a_wrong_number_of_pages_is_a_broken_file(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        f"import json\nprint(json.dumps({first}))\nprint(json.dumps({{'text': 'a'}}))"
    )
    monkeypatch.setattr(process_module, "MAIN", script)
    with pytest.raises(DocumentError, match="The PDF is broken"):
        FileReader().extract(save("a.pdf", b"%PDF-"))


@pytest.mark.parametrize("value", ["7", "None", "['a']", "{'a': 1}", "True"])
def test_a_page_of_a_wrong_shape_is_a_broken_page(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import json\nfor message in ({'num_pages': 2}, {'text': 'good'}, "
        f"{{'text': {value}}}, {{'is_done': True}}): print(json.dumps(message), flush=True)"
    )
    monkeypatch.setattr(process_module, "MAIN", script)
    document = FileReader().extract(save("a.pdf", b"%PDF-"))
    assert [page.text for page in document.pages] == ["good", ""]
    assert document.broken_pages == (2,)


@pytest.mark.skipif(sys.platform == "win32", reason="needs devices and pipes")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.pdf", tmp_path / "link.pdf"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link, Path("/dev/zero"), Path("/dev/random"), Path("/dev/tty"), tmp_path):
        with pytest.raises(DocumentError, match="cannot be opened"):
            FileReader().extract(path)
    with pytest.raises(DocumentError, match="cannot be opened"):
        FileReader().extract(tmp_path / "zero\0byte.pdf")


def test_many_files_of_one_owner_do_not_put_off_anothers() -> None:
    turns, order, go = Turns(), [], threading.Event()

    def use(owner: str) -> None:
        with turns.take(lambda: None, owner):
            order.append(owner)
            assert go.wait(SOON_S)

    threads = [threading.Thread(target=use, args=("bob",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(order) == 1 and turns.num_waiting("bob") == 3)
    threads.append(threading.Thread(target=use, args=("ada",)))
    threads[-1].start()
    wait_until(lambda: turns.num_waiting("ada") == 1)
    go.set()
    for thread in threads:
        thread.join(SOON_S)
    assert order == ["bob", "ada", "bob", "bob", "bob"]


def test_few_files_of_one_owner_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FileReader()
    monkeypatch.setattr(reader._turns, "num_waiting", lambda owner: 3 if owner == "bob" else 0)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DocumentError, match="waiting to be opened"):
        reader.extract(tmp_path / "a.txt", owner="bob")
    assert reader.extract(tmp_path / "a.txt", owner="ada").pages[0].text == "hello"
