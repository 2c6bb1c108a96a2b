"""Two guests of one server for some minutes, one of them hostile; README says how to start it.

Ada chats and asks a document. Bob opens pages, floods the queue, uploads, asks for a billion
tokens, guesses passwords and tries Ada's session. It must come out that every question of Ada's is
answered, that nothing of hers is lost or mixed with his, and that he is told why he is refused.

Knows the page's requests. Must not know how the server was started.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent / "ui"), str(HERE.parent), str(HERE.parents[1])]

# behind the line that finds them when this file is started
import httpx  # noqa: E402
from caller import API, Caller, shown  # noqa: E402

PASSWORDS = {"ada": "correct horse battery", "bob": "nine geese in a row"}
ANSWER_S = 240.0
"""A small processor that is shared answers within this time."""

LIMIT = [0, 1, 0, 0, 1, 24, "1", "", None]
NOTES = "The heron of the harbour is called Isolde. " * 12
_SENTENCE = re.compile(r"[A-Z][^<>{}\"\\]{12,200}?\.")


@dataclass
class Outcome:
    """What happened to both.

    Args:
        waits_s: How long each of Ada's answers took.
        faults: What should not have happened.
        told: Sentences that Bob was refused with, and how often.
        done: What Bob did, and how often.
    """

    waits_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)


class Ada:
    """Chats, and asks a document now and then.

    Args:
        url: Of the server.
        outcome: Where she notes how it went.
    """

    def __init__(self, url: str, outcome: Outcome) -> None:
        self.page = Caller(url, "ada", PASSWORDS["ada"]).open()
        self._outcome = outcome
        self._asked: list[str] = []
        self.page.run("set_sampling", LIMIT)
        upload_id = self.page.upload(NOTES.encode(), "heron.txt").json()[0]
        file = {"path": upload_id, "meta": {"_type": "gradio.FileData"}}
        self.page.run("open_file", [file, None], ANSWER_S)
        self.page.run("read", ["1", None], ANSWER_S)

    def turn(self) -> None:
        """One question, and a look at everything of hers."""
        number = len(self._asked)
        self._asked.append(f"ada asks number {number}.")
        began = time.monotonic()
        told = self.page.run("send", [self._asked[-1], None], ANSWER_S)
        self._outcome.waits_s.append(time.monotonic() - began)
        self._check(told[-1].get("success"), f"question {number} failed: {told[-1]}")
        chat = html.unescape(shown(self.page.run("follow", [None], ANSWER_S)))
        chat += html.unescape(shown(self.page.run("follow_1", [None], ANSWER_S)))
        lost = [asked for asked in self._asked[-20:] if asked not in chat]
        self._check(not lost, f"lost: {lost}")
        self._check("bob asks" not in chat, "something of Bob's is in her chat")
        if number % 4 == 0:
            self._ask_document(number)

    def _ask_document(self, number: int) -> None:
        told = self.page.run("ask", [f"ada asks the heron {number}", None], ANSWER_S)
        text = html.unescape(shown(told))
        self._check(told[-1].get("success"), f"the document's answer {number} failed")
        self._check(f"ada asks the heron {number}" in text, "the document is gone")
        self._check("bob asks" not in text, "something of Bob's is in her document")

    def _check(self, is_right: object, fault: str) -> None:
        if not is_right:
            self._outcome.faults.append(fault[:400])


class Bob:
    """Does what he can to spoil it.

    Args:
        url: Of the server.
        ada_session: Her page's session, as if he had seen it.
        outcome: Where he notes what he was told.
        seed: Of what he does.
    """

    def __init__(self, url: str, ada_session: str, outcome: Outcome, seed: int) -> None:
        self._url, self._ada_session, self._outcome = url, ada_session, outcome
        self._rng = random.Random(seed)
        self._page = Caller(url, "bob", PASSWORDS["bob"]).open()
        self._ways: tuple[Callable[[], object], ...] = (
            self._open_pages,
            self._flood,
            self._ask_for_ever,
            self._upload,
            self._upload_damaged,
            self._guess,
            self._take_session,
            self._name_files,
            self._send_garbage,
        )

    def act(self) -> None:
        """One of his ways; a connection that is refused him is one of the right ends."""
        way = self._rng.choice(self._ways)
        self._outcome.done[way.__name__[1:]] += 1
        try:
            self._note(way())
        except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
            self._outcome.told[f"{type(error).__name__}"] += 1

    def _note(self, answer: object) -> None:
        status = getattr(answer, "status_code", 200)
        text = answer.text if isinstance(answer, httpx.Response) else json.dumps(answer)
        if status >= 400 or "nq-warn" in text or "nq-error" in text or '"success": false' in text:
            for sentence in _SENTENCE.findall(html.unescape(text)):
                self._outcome.told[f"{status}: {sentence}"] += 1
        if status >= 500:
            self._outcome.faults.append(f"Bob got {status}: {text[:200]}")

    def _open_pages(self) -> object:
        last: object = None
        for _ in range(self._rng.randrange(1, 12)):
            page = Caller(self._url)
            page.http.cookies = self._page.http.cookies
            inputs = page.event("open_page")["inputs"]
            last = page.join(page.body("open_page", [None] * len(inputs)))
        return last

    def _flood(self) -> object:
        bodies = [self._page.body("send", [f"bob asks {n} " * 50, None]) for n in range(30)]
        bodies += [self._page.body("pulse", []) for _ in range(60)]
        return [self._page.join(body) for body in bodies][-1]

    def _ask_for_ever(self) -> object:
        told = self._page.run("set_sampling", [0, 1, 0, 0, 1, 10**9, "1", "", None])
        self._page.run("set_sampling", [0, 1, 0, 0, 1, 16_000, "1", "", None])
        page = Caller(self._url)
        page.http.cookies = self._page.http.cookies
        page.open()
        page.run("set_sampling", [0, 1, 0, 0, 1, 16_000, "1", "", None])
        page.join(page.body("send", ["bob asks for a long story " * 100, None]))
        return told

    def _upload(self) -> object:
        return self._page.upload(self._rng.randbytes(self._rng.choice([10, 10**6, 2 * 10**7])))

    def _upload_damaged(self) -> object:
        content = b"%PDF-1.7\n" + self._rng.randbytes(20_000)
        arrived = self._page.upload(content, "bob.pdf")
        if arrived.status_code != 200:
            return arrived
        file = {"path": arrived.json()[0], "meta": {"_type": "gradio.FileData"}}
        return self._page.run("open_file", [file, None], 60)

    def _guess(self) -> object:
        with Caller(self._url) as stranger:
            return stranger.log_in("ada", f"guess {self._rng.random()}")

    def _take_session(self) -> object:
        query = {"session_hash": self._ada_session}
        body = self._page.body("stop", [None]) | query | {"event_id": "x"}
        self._note(self._page.http.post(f"{API}/cancel", json=body))
        self._note(self._page.http.post(f"{API}/run/predict", json=body))
        return self._page.http.get(f"{API}/queue/data", params=query)

    def _name_files(self) -> object:
        path = self._rng.choice(["/etc/passwd", "/dev/zero", "http://127.0.0.1:9/x", "../x"])
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self._page.join(self._page.body("open_file", [file, None]))

    def _send_garbage(self) -> object:
        text = self._rng.choice(["[" * 10**6, '{"data": [' + "0," * 10**6, "\\ud83d", "{}"])
        return self._page.join(text)


def run(url: str, seconds: float, *, num_bobs: int = 3) -> Outcome:
    """Let both at the server for so long.

    Args:
        url: Of a server that knows both.
        seconds: How long Bob goes on; Ada ends after her last answer.
        num_bobs: Threads that Bob acts on.
    """
    outcome, end = Outcome(), time.monotonic() + seconds
    ada = Ada(url, outcome)

    def attack(seed: int) -> None:
        bob = Bob(url, ada.page.session, outcome, seed)
        while time.monotonic() < end:
            bob.act()

    threads = [threading.Thread(target=attack, args=(n,), daemon=True) for n in range(num_bobs)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        ada.turn()
    for thread in threads:
        thread.join(120)
    # and the next question works
    ada.turn()
    return outcome


def main() -> int:
    """Start the app, run, and say how it went; returns the number of faults, 100 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--data-dir", type=Path, help="one that has the model; None: a new one")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        passwords = Path(folder) / "passwords"
        passwords.write_text("".join(f"{name}:{word}\n" for name, word in PASSWORDS.items()))
        command = [sys.executable, "app.py", "--no-browser", "--port", "18990", "--device", "cpu",
                   "--user", "ada", "--user", "bob", "--password-file", str(passwords),
                   "--data-dir", str(flags.data_dir or Path(folder) / "data")]  # fmt: skip
        with subprocess.Popen(
            command, cwd=HERE.parents[1], stdout=subprocess.PIPE, text=True, env=os.environ
        ) as app:
            try:
                outcome = run(_address(app), 60 * flags.minutes)
            finally:
                app.terminate()
    _tell(outcome)
    return min(len(outcome.faults), 100)


def _address(app: subprocess.Popen) -> str:
    address = ""
    for line in app.stdout or ():
        found = re.search(r"Nexusquant: (http://\S+)", line)
        address = found[1] if found else address
        if "The model is ready" in line:
            return address
    raise RuntimeError("The app ended before its model was ready.")


def _tell(outcome: Outcome) -> None:
    waits = sorted(outcome.waits_s)
    lines = [
        f"Ada: {len(waits)} answers, the median after {waits[len(waits) // 2]:.1f} s, "
        f"the last one after {waits[-1]:.1f} s",
        f"Bob did: {dict(outcome.done)}",
        "Bob was told:",
        *(f"  {number} times {what}" for what, number in outcome.told.most_common(40)),
        f"{len(outcome.faults)} faults",
        *(f"  {fault}" for fault in outcome.faults[:20]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
