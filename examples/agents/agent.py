"""One agent of a platform: it knows SQLite and nothing else. `hive demo` runs some of these while it migrates.

    python3 agent.py DATABASE WORK NAME

WORK is a JSON file with the statements that it sends, job after job, one statement every 80 ms. It prints {"ready"} when
it begins. To each line on stdin it answers with one line of JSON: what was sent and acknowledged since the last answer.
It ends, with a last answer, when stdin ends. It never tries a statement again.
"""

import json
import os
import platform
import queue
import signal
import sqlite3
import sys
import threading
import time

EVERY = 0.08
PREFIX = "live-"


def listen(asked):
    # Not sys.stdin: a thread that waits in it keeps the interpreter from ending.
    while True:
        data = os.read(0, 4096)
        if not data:
            break
        for _ in range(data.count(b"\n")):
            asked.put("report")
    asked.put("end")


class Agent:
    def __init__(self, database, work, name):
        self.db = sqlite3.connect(database, timeout=10, isolation_level=None)
        self.db.execute("PRAGMA foreign_keys = ON")
        self.name, self.work = name, work
        self.job, self.at = 1, 0
        self.texts = {}
        self.clear()

    def clear(self):
        self.since = time.monotonic()
        self.statements, self.failures, self.errors, self.ms, self.written = 0, 0, [], [], {}

    def key(self, row, job):
        return PREFIX + self.name if row == "worker" else f"{PREFIX}{self.name}-{row}-{job}"

    def next(self):
        self.send(self.work["work"][self.at])
        self.at += 1
        if self.at == len(self.work["work"]):
            self.job, self.at = self.job + 1, 0

    def send(self, statement):
        writes, reads, ends = statement.get("writes"), statement.get("reads"), statement.get("ends")
        job = self.job - ends["jobsAgo"] if ends else self.job
        if job < 1:
            return
        mark = writes and (job if writes["mark"] == "job" else writes["mark"])
        values = {row: self.key(row, job) for row in ("worker", "task", "run", "request", "plan", "event")}
        values["text"] = f'{self.work["title"]} {job} #{mark}'
        values["json"] = json.dumps({"about": values["text"]})
        begun = time.perf_counter()
        try:
            rows = self.db.execute(statement["sql"], values).fetchall()
            if reads and rows != [(self.texts[self.key(reads, job)],)]:
                raise sqlite3.Error(f"{self.key(reads, job)} reads {rows}")
        except sqlite3.Error as error:
            self.failures += 1
            self.errors.append(f"{type(error).__name__}: {error}")
        else:
            if writes:
                self.texts[self.key(writes["row"], job)] = values["text"]
                self.written[self.key(writes["row"], job)] = mark
            for row in ends["rows"] if ends else ():
                self.texts.pop(self.key(row, job), None)
                self.written[self.key(row, job)] = None
        self.statements += 1
        self.ms.append(round((time.perf_counter() - begun) * 1000, 3))

    def report(self):
        say(
            seconds=time.monotonic() - self.since, statements=self.statements, failures=self.failures,
            errors=self.errors[:3], ms=self.ms, written=self.written,
        )
        self.clear()


def say(**message):
    print(json.dumps(message), flush=True)


def main(database, file, name):
    # A Ctrl-C at the terminal is for whoever started this, who then closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = queue.Queue()
    threading.Thread(target=listen, args=(asked,), daemon=True).start()
    with open(file, encoding="utf-8") as work:
        agent = Agent(database, json.load(work)[name], name)
    for statement in agent.work["hello"]:
        agent.send(statement)
    say(ready=f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}", pid=os.getpid())
    due = time.monotonic()
    while True:
        try:
            question = asked.get(timeout=max(0, due - time.monotonic()))
        except queue.Empty:
            agent.next()
            due = max(due + EVERY, time.monotonic())
            continue
        agent.report()
        if question == "end":
            return


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BrokenPipeError:
        # Nobody is left to be told.
        os._exit(0)
