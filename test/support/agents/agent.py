"""An agent of the platform as it is today: one process, plain sqlite3, no retries, nothing of hive.

What it does follows from --seed and --id alone: never from the time, and never from whether a read-then-write
transaction came through, so that two runs with the same arguments send the same statements. Every agent has rows of its
own (`agent3-…`) and a fixed share of those that were there (by the hash of their key); no two write the same row.

Each acknowledged transaction is run again on a private copy of the agent's share, in memory. So the agent knows what
each of its statements has to return, and what has to be in the database in the end: that copy is saved beside the log.

Prints `ready` when its copy is made, and begins at the line `go` on stdin. At `pause` it prints `paused`, and sends
nothing until the next `go`. It stops after --operations, after --seconds, on SIGTERM or at the end of stdin; never
within an operation. The log is JSON lines: {"agent"} first, {"op"} for each operation, flushed once it is acknowledged,
{"end"} last. Needs Python 3.8 and SQLite 3.33; without 3.35 it leaves RETURNING away.
"""

import argparse
import hashlib
import json
import random
import signal
import sqlite3
import sys
import threading
import time
import zlib
from datetime import datetime, timedelta, timezone

RETURNS = sqlite3.sqlite_version_info >= (3, 35, 0)

# Which agent's share a row belongs to, by this expression.
OWNER_KEYS = {
    "tasks": "id",
    "runs": "task_id",
    "workers": "id",
    "planning_queue": "id",
    "execution_plans": "planning_task_id",
    "plan_execution": "coalesce((SELECT planning_task_id FROM live.execution_plans p WHERE p.id = plan_id), plan_id)",
    "events": "event_id",
    "deployment_events": "task_id",
    "event_subscriptions": "subscription_id",
}

TASK_TYPES = [
    "backend", "frontend", "infra", "app", "planned_subtask", "chimera_workflow", "qa_workflow", "qa_golden_rules",
    "deployment", "deploy", "review", "test", "test_suite", "analysis", "documentation", "development", "plan",
    "verification", "workflow", "Backend", " review ", "TaskType.REVIEW", "",
]
STATUSES = [
    "queued", "assigned", "in_progress", "review_pending", "approved", "rejected", "rework_needed", "escalated",
    "completed", "failed", "cancelled", "review_in_progress", "review_approved", "review_rejected", "review_failed",
    "planning_in_progress", "planned", "planning_failed", "deployment_pending", "deploying", "deployed",
    "deployment_failed", "rolled_back", "running", "pending", "", " queued ", "QUEUED", "TaskStatus.APPROVED",
    "blocked", "validation_failed",
]
FLOWS = {
    "queued": ["assigned", "assigned", "cancelled"],
    "assigned": ["in_progress", "in_progress", "queued"],
    "in_progress": ["queued", "review_pending", "completed", "failed"],
    "review_pending": ["approved", "rejected", "rework_needed", "escalated", "review_in_progress"],
    "review_in_progress": ["review_approved", "review_rejected", "review_failed"],
    "approved": ["completed", "deployment_pending"],
    "rework_needed": ["queued"],
    "escalated": ["approved", "rejected"],
    "failed": ["queued"],
    "deployment_pending": ["deploying"],
    "deploying": ["deployed", "deployment_failed", "rolled_back"],
    "planning_in_progress": ["planned", "planning_failed"],
    "planned": ["queued"],
}
RUN_STATUSES = ["success", "success", "failure", "failed", "timeout", "cancelled", "error", "completed", "blocked"]
PHASES = ["start", "apply", "inspect", "test", "review", "e2e_test_generation", "code_implementation"]
PRIORITIES = [1, 2, 3, 5, 10, 0, -5, 50, 85, None, "high", 2.5, "7"]
WORKFLOWS = [
    None,
    '{"start": {"next_phase_on_success": "apply"}, "apply": {"next_phase_on_success": "inspect"}}',
    '{"current_phase": "code_implementation", "phases": ["a", "b"]}',
    "{}",
    '{"apply": {"next',
    "",
]
EVENTS = ["task.completed", "TaskEventType.COMPLETED", "task.escalated", "task.review_requested",
          "workflow.plan_generated", "task.progress", "system.error"]
SHORT = [("id", "title", "task_type", "status"), ("id", "title", "description", "task_type", "priority", "status", "payload")]
FULL = ("id", "title", "description", "task_type", "priority", "status", "current_phase", "workflow", "payload",
        "created_at", "updated_at", "assigned_worker", "max_retries", "tags", "assignee", "started_at",
        "failure_reason", "retry_count")


class Step:
    """One statement. `params` is a value or a function of the results before it in its transaction."""

    def __init__(self, sql, params=(), many=False, key=None, logged=True, numbered=False):
        self.sql, self.params, self.many = sql, params, many
        # (table, column, value) of the row that an INSERT makes, to hold lastrowid against.
        self.key = key
        # False for what other agents' rows decide: all tasks by status, a number out of AUTOINCREMENT.
        self.logged, self.numbered = logged, numbered


class Operation:
    """Statements that are one transaction. `think` is how long it ponders before its last statement: 0 to 1, of the most."""

    def __init__(self, kind, name, steps, think=0.0, begin=False, undo=False, others=False):
        self.kind, self.name, self.steps, self.think, self.begin, self.undo = kind, name, steps, think, begin, undo
        # Reads rows of other agents, so that its copy cannot say what is returned.
        self.others = others


def insert(table, columns, values, head="INSERT INTO", tail=""):
    marks = ", ".join("?" for _ in columns)
    return f"{head} {table} ({', '.join(columns)}) VALUES ({marks}){tail}", tuple(values)


class Plan:
    """The operations, one after the other. Knows what it sent, not what came of it."""

    def __init__(self, seed, me, foreign_keys, existing):
        self.random = random.Random(seed * 1_000_003 + me).random
        self.me, self.foreign_keys = f"agent{me}", foreign_keys
        self.number = 0
        self.made = 0
        self.tasks, self.runs, self.workers, self.queue, self.plans = [], [], [], [], []
        self.scratch = []
        tasks, self.old_queue, self.old_plans, self.old_workers = existing
        # What read-then-write transactions change, nothing else does: whether they came through must not be seen.
        self.old_claims = tasks[::9][:60]
        claims = set(self.old_claims)
        self.old_tasks = [key for key in tasks if key not in claims]
        self.queue_claims = self.old_queue[::9][:10]
        self.old_queue = [key for key in self.old_queue if key not in set(self.queue_claims)]
        self.claims = [f"{self.me}-claim-{n}" for n in range(6)]
        self.state = {}
        writes = [
            (14, self.status), (8, self.old_status), (7, self.task), (4, self.fields), (3, self.payload),
            (6, self.run), (7, self.run_end), (2, self.run_twice), (2, self.run_ignored), (2, self.run_replaced),
            (2, self.run_moved), (1, self.run_deleted), (2, self.run_renumbered), (3, self.worker), (5, self.heartbeat),
            (4, self.queued), (4, self.planned), (3, self.plan_status), (3, self.deployment), (4, self.event),
            (2, self.event_batch), (3, self.upsert), (2, self.task_ignored), (1, self.task_replaced),
            (2, self.task_deleted), (1, self.old_deleted), (1, self.queue_deleted), (2, self.scratched),
            (1, self.bulk), (1, self.cleanup), (1, self.task_renamed), (2, self.nothing), (3, self.many),
            (2, self.undone), (2, self.zombies), (1, self.retyped), (2, self.savepoint),
        ]
        reads = [
            (8, self.read_task), (6, self.read_old), (4, self.read_runs), (4, self.read_own), (3, self.read_queue),
            (3, self.read_board), (3, self.read_worker), (3, self.read_twice), (2, self.read_events),
        ]
        claims = [(8, self.claim), (5, self.claim_old), (4, self.claim_run), (3, self.claim_queue)]
        self.kinds = [(0.27, reads), (0.42, claims), (1.0, writes)]

    # Chance.

    def below(self, n):
        return int(self.random() * n)

    def pick(self, among):
        return among[self.below(len(among))]

    def some(self, among, most):
        """Up to `most` different ones, in a fixed order."""
        left, found = list(among), []
        while left and len(found) < most:
            found.append(left.pop(self.below(len(left))))
        return found

    def id(self, kind):
        self.made += 1
        return f"{self.me}-{kind}-{self.made}"

    def time(self):
        at = datetime(2025, 10, 6, tzinfo=timezone.utc) + timedelta(seconds=7 * self.number, microseconds=self.below(10**6))
        return self.pick([
            at.strftime("%Y-%m-%d %H:%M:%S"),
            at.strftime("%Y-%m-%d %H:%M:%S"),
            at.isoformat(),
            at.replace(tzinfo=None).isoformat(),
            at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        ])

    def any_payload(self):
        n = self.number
        return self.pick([
            None,
            json.dumps({"requirements": ["solver", "ingest"], "n": n}),
            json.dumps({"correlation_id": f"{self.me}-corr-{n % 5}", "files": {"a.py": "x = 'ü'\n"}, "n": n}),
            json.dumps({"service_name": "api", "environment": {"platform": "k8s"}, "commit_sha": "abc", "n": n}),
            json.dumps({"code_path": "src/a.py", "pr_id": n, "parent_plan_id": f"{self.me}-plan"}),
            json.dumps(json.dumps({"twice": n})),
            "{'python': 'repr', 'n': %d}" % n,
            '{"cut": "off',
            '{"n": NaN, "big": 12345678901234567890, "n": 1.0}',
            "free text", "[1, 2]", "null", "",
        ])

    def result_data(self):
        return self.pick([
            None,
            json.dumps({"inspection_report": {"summary": {"quality_score": self.below(1000) / 10}, "issues": ["long"]}}),
            json.dumps({"status": "success", "n": self.number}),
            "not json", "",
        ])

    def next(self):
        self.number += 1
        if self.number == 1:
            return self.first()
        roll = self.random()
        among = next(kinds for limit, kinds in self.kinds if roll < limit)
        roll = self.below(sum(weight for weight, _ in among))
        for weight, make in among:
            roll -= weight
            if roll < 0:
                return make() or self.task()
        raise AssertionError

    # Writes.

    def write(self, name, *steps, **more):
        return Operation("write", name, list(steps), **more)

    def first(self):
        """A worker, the rows for read-then-write, and some tasks."""
        worker = self.id("worker")
        self.workers.append(worker)
        # Keeps the runs that were claimed: what else happens to workers must not depend on how many those are.
        self.claimer = f"{self.me}-claimer"
        tasks = [self.values(SHORT[1]) for _ in range(8)]
        claims = [(key, "Claimed", "backend", "queued") for key in self.claims]
        return self.write(
            "first",
            Step(*insert("workers", ("id", "role"), (worker, "backend")), key=("workers", "id", worker)),
            Step(*insert("workers", ("id", "role"), (self.claimer, "queen")), key=("workers", "id", self.claimer)),
            Step(insert("tasks", SHORT[1], tasks[0])[0], tasks, many=True),
            Step(insert("tasks", SHORT[0], claims[0])[0], claims, many=True),
        )

    def values(self, columns, key=None, status=None):
        """A task's, by column; the plan knows of it from now on."""
        key = key or self.id("task")
        kind = self.pick(TASK_TYPES)
        if status is None:
            status = "deployment_pending" if kind.startswith("deploy") else self.pick(["queued", "queued", *STATUSES])
        row = {
            "id": key, "title": self.pick(["Add tests", "Überarbeiten — Cache", "", "x" * 300]),
            "description": self.pick([None, "Requirements:\n1. solver\n2. ingest", ""]), "task_type": kind,
            "priority": self.pick(PRIORITIES), "status": status, "current_phase": self.pick(PHASES),
            "workflow": self.pick(WORKFLOWS), "payload": self.any_payload(), "created_at": self.time(),
            "updated_at": self.time(), "assigned_worker": None, "max_retries": self.pick([3, 0, None]),
            "tags": self.pick([None, '["backend"]', "a,b"]), "assignee": self.pick([None, "worker:backend"]),
            "started_at": self.pick([None, self.time(), ""]), "failure_reason": self.pick([None, "", "max retries"]),
            "retry_count": self.pick([0, 1, None]),
        }
        if key not in self.state:
            self.tasks.append(key)
        self.state[key] = status
        return [row[column] for column in columns]

    def task(self):
        columns = self.pick([*SHORT, FULL, FULL])
        values = self.values(columns)
        returning = " RETURNING id, status, priority, current_phase" if RETURNS and self.below(3) == 0 else ""
        steps = [Step(*insert("tasks", columns, values, tail=returning), key=("tasks", "id", values[0]))]
        if self.below(3) == 0:
            steps.append(Step("SELECT changes()"))
        if self.below(4) == 0:
            steps.append(self.event_step(values[0]))
        return self.write("task", *steps)

    def advance(self, key):
        status = self.state.get(key, "queued")
        after = self.pick(FLOWS[status]) if status in FLOWS and self.below(20) else self.pick(STATUSES)
        self.state[key] = after
        return after

    def status(self):
        if not self.tasks:
            return None
        key = self.pick(self.tasks)
        return self.status_of(key, "status")

    def old_status(self):
        return self.status_of(self.pick(self.old_tasks), "status of an old task") if self.old_tasks else None

    def status_of(self, key, name):
        before, after = self.state.get(key), self.advance(key)
        shape = self.below(5)
        if shape == 0 and before is not None:
            step = Step("UPDATE tasks SET status = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ? AND status = ?",
                        (after, key, before))
        elif shape == 1 and RETURNS:
            step = Step("UPDATE tasks SET status = ?, current_phase = ?, updated_at = ? WHERE id = ? RETURNING id, status",
                        (after, self.pick(PHASES), self.time(), key))
        elif shape == 2:
            step = Step("UPDATE tasks SET status = ?, started_at = ?, assigned_at = ? WHERE id = ?",
                        (after, self.time(), self.time(), key))
        else:
            step = Step("UPDATE tasks SET status = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ?", (after, key))
        return self.write(name, step)

    def fields(self):
        if not self.tasks:
            return None
        key = self.pick([self.pick(self.tasks), self.pick(self.old_tasks or self.tasks)])
        return self.write("fields", self.pick([
            Step("UPDATE tasks SET retry_count = coalesce(retry_count, 0) + 1, failure_reason = ? WHERE id = ?",
                 (self.pick([None, "", "Traceback\n  …"]), key)),
            Step("UPDATE tasks SET assignee = ?, assigned_worker = ?, summary = ? WHERE id = ?",
                 ("worker:backend", self.pick(self.workers), "done", key)),
            Step("UPDATE tasks SET priority = ?, tags = ?, worktree = '.worktrees/' || id WHERE id = ?",
                 (self.pick(PRIORITIES), '["a"]', key)),
            Step("UPDATE tasks SET title = title WHERE id = ?", (key,)),
        ]), Step("SELECT changes()"))

    def payload(self):
        if not self.tasks:
            return None
        key = self.pick([self.pick(self.tasks), self.pick(self.old_tasks or self.tasks)])
        return self.write("payload", Step("UPDATE tasks SET payload = ?, workflow = ? WHERE id = ?",
                                          (self.any_payload(), self.pick(WORKFLOWS), key)))

    def retyped(self):
        if not self.tasks:
            return None
        return self.write("retyped", Step("UPDATE tasks SET task_type = ? WHERE id = ?",
                                          (self.pick(TASK_TYPES), self.pick(self.tasks))))

    def zombies(self):
        low, high = f"{self.me}-task-", f"{self.me}-task."
        return self.write("zombies", Step(
            "UPDATE tasks SET status = 'queued', failure_reason = 'zombie' WHERE status = 'in_progress' AND id > ? AND id < ?",
            (low, high)))

    def many(self):
        keys = self.some(self.tasks, 3) + self.some(self.old_tasks, 2)
        return self.write("executemany", Step("UPDATE tasks SET priority = ? WHERE id = ?",
                                              [(self.pick(PRIORITIES), key) for key in keys], many=True)) if keys else None

    def nothing(self):
        return self.write("nothing", self.pick([
            Step("UPDATE tasks SET status = 'failed' WHERE id = ?", (f"{self.me}-none",)),
            Step("DELETE FROM runs WHERE task_id = ? AND run_number = -1", (self.pick(self.old_tasks or [""]),)),
            Step("UPDATE planning_queue SET status = 'assigned' WHERE id = ? AND status = 'never'",
                 (self.pick(self.old_queue or [""]),)),
        ]))

    def upsert(self):
        if not self.tasks or self.below(2):
            worker = self.pick(self.workers)
            return self.write("upsert", Step(*insert(
                "workers", ("id", "role", "status"), (worker, "backend", self.pick(["active", "idle"])),
                tail=" ON CONFLICT (id) DO UPDATE SET status = excluded.status, last_heartbeat = CURRENT_TIMESTAMP"),
                key=("workers", "id", worker)))
        key = self.pick([self.pick(self.tasks), self.id("task")])
        values = self.values(SHORT[1], key)
        tail = " ON CONFLICT (id) DO UPDATE SET status = excluded.status, priority = excluded.priority"
        if RETURNS:
            tail += " RETURNING id, status, title"
        return self.write("upsert", Step(*insert("tasks", SHORT[1], values, tail=tail), key=("tasks", "id", key)))

    def task_ignored(self):
        key = self.pick([self.pick(self.tasks), self.pick(self.tasks), self.id("task")]) if self.tasks else self.id("task")
        before = self.state.get(key)
        values = self.values(SHORT[0], key)
        if before is not None:
            self.state[key] = before
        return self.write("insert or ignore", Step(*insert("tasks", SHORT[0], values, "INSERT OR IGNORE INTO"),
                                                   key=("tasks", "id", key)), Step("SELECT changes()"))

    def task_replaced(self):
        """With foreign keys on, its runs go with the row that is replaced, and deployment events keep it."""
        if not self.tasks:
            return None
        key = self.pick(self.tasks)
        self.runs = [run for run in self.runs if run[1] != key] if self.foreign_keys else self.runs
        return self.write("insert or replace of a task", Step(
            *insert("tasks", FULL, self.values(FULL, key), "INSERT OR REPLACE INTO"), key=("tasks", "id", key)))

    def forget(self, keys):
        gone = set(keys)
        self.tasks = [key for key in self.tasks if key not in gone]
        self.runs = [run for run in self.runs if run[1] not in gone]

    def task_deleted(self):
        """With foreign keys on, runs go with it, and what else refers to it makes the statement fail."""
        if len(self.tasks) < 4:
            return None
        key = self.pick(self.tasks)
        self.forget([key])
        tail = " RETURNING id, status" if RETURNS and self.below(2) else ""
        return self.write("delete", Step(f"DELETE FROM tasks WHERE id = ?{tail}", (key,)), Step("SELECT changes()"))

    def old_deleted(self):
        if len(self.old_tasks) < 20:
            return None
        key = self.pick(self.old_tasks)
        self.old_tasks.remove(key)
        self.forget([key])
        return self.write("delete of an old task", Step("DELETE FROM tasks WHERE id = ?", (key,)))

    def scratched(self):
        rows = [self.id("tmp") for _ in range(4)]
        self.scratch += rows
        rows = [(key, "Scratch", self.pick(TASK_TYPES), self.pick(STATUSES), self.any_payload()) for key in rows]
        return self.write("insert many", Step(
            insert("tasks", ("id", "title", "task_type", "status", "payload"), rows[0])[0], rows, many=True))

    def bulk(self):
        if not self.scratch:
            return self.scratched()
        low, high = f"{self.me}-tmp-", f"{self.me}-tmp."
        self.scratch = []
        return self.write("bulk delete", Step("DELETE FROM tasks WHERE id > ? AND id < ?", (low, high)))

    def cleanup(self):
        """As the platform's cleanup script does, on a few rows of its own."""
        keys = self.some(self.tasks, 3)
        if len(self.tasks) < 8:
            return None
        self.forget(keys)
        marks = ", ".join("?" for _ in keys)
        gone = self.workers.pop(0) if len(self.workers) > 2 else f"{self.me}-none"
        return self.write(
            "cleanup",
            Step(f"DELETE FROM runs WHERE task_id IN ({marks})", keys),
            Step(f"UPDATE workers SET current_task_id = NULL WHERE current_task_id IN ({marks})", keys),
            Step("UPDATE runs SET worker_id = ? WHERE worker_id = ?", (self.workers[-1], gone)),
            Step("DELETE FROM workers WHERE id = ?", (gone,)),
            Step(f"DELETE FROM deployment_events WHERE task_id IN ({marks})", keys),
            Step(f"DELETE FROM tasks WHERE id IN ({marks})", keys),
        )

    def task_renamed(self):
        """A key change: with foreign keys on, it fails where runs refer to the old key."""
        if not self.tasks:
            return None
        key, to = self.pick(self.tasks), self.id("task")
        if any(run[1] == key for run in self.runs):
            return None
        self.forget([key])
        return self.write("key change of a task", Step("UPDATE tasks SET id = ? WHERE id = ?", (to, key)))

    def undone(self):
        key = self.id("task")
        if not self.tasks:
            return None
        return self.write(
            "rolled back",
            Step(*insert("tasks", SHORT[0], (key, "Never", "review", "queued")), key=("tasks", "id", key)),
            Step("UPDATE tasks SET status = 'failed' WHERE id = ?", (self.pick(self.tasks),)),
            Step("DELETE FROM runs WHERE task_id = ?", (self.pick(self.old_tasks or [key]),)),
            undo=True, begin=True,
        )

    def savepoint(self):
        if not self.tasks:
            return None
        key, other = self.pick(self.tasks), self.pick(self.tasks)
        status = self.advance(key)
        return self.write(
            "savepoint",
            Step("UPDATE tasks SET status = ? WHERE id = ?", (status, key)),
            Step("SAVEPOINT inner_part"),
            Step("DELETE FROM tasks WHERE id = ?", (other,)) if not self.foreign_keys
            else Step("UPDATE tasks SET status = 'cancelled' WHERE id = ?", (other,)),
            Step("ROLLBACK TO inner_part"),
            Step("RELEASE inner_part"),
            begin=True,
        )

    # Runs.

    def run(self):
        if not self.tasks:
            return None
        task = self.pick([self.pick(self.tasks), self.pick(self.tasks), self.pick(self.old_tasks or self.tasks)])
        key, number = self.id("run"), 1000 + self.number
        self.runs.append((key, task, number))
        status = self.pick(["pending", "running", "running"])
        columns = ("id", "task_id", "worker_id", "run_number", "status", "phase")
        row = (key, task, self.pick(self.workers), number, status, self.pick(PHASES))
        steps = [Step(*insert("runs", columns, row), key=("runs", "id", key))]
        if self.below(2):
            self.state[task] = "in_progress"
            steps.append(Step("UPDATE tasks SET status = 'in_progress', started_at = ? WHERE id = ?", (self.time(), task)))
        return self.write("run", *steps)

    def one_run(self):
        return self.pick(self.runs) if self.runs else None

    def run_end(self):
        run = self.one_run()
        if not run:
            return None
        status = self.pick(RUN_STATUSES)
        end = Step("UPDATE runs SET status = ?, completed_at = ?, result_data = ?, error_message = ?, output_log = ? WHERE id = ?",
                   (status, self.time(), self.result_data(), self.pick([None, "", "exit 1"]), "log\n" * 20, run[0]))
        if self.below(2):
            return self.write("run end", end)
        after = "review_pending" if status == "success" else "failed"
        self.state[run[1]] = after
        return self.write("run end", end, Step("UPDATE tasks SET status = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ?",
                                               (after, run[1])))

    def run_row(self, run):
        columns = ("id", "task_id", "worker_id", "run_number", "status", "result_data")
        return columns, (self.id("run"), run[1], self.pick(self.workers), run[2], "success", self.result_data())

    def run_twice(self):
        """Fails: its number is taken."""
        run = self.one_run()
        return self.write("a number twice", Step(*insert("runs", *self.run_row(run)))) if run else None

    def run_ignored(self):
        run = self.one_run()
        if not run:
            return None
        columns, row = self.run_row(run)
        return self.write("run or ignore", Step(*insert("runs", columns, row, "INSERT OR IGNORE INTO"),
                                                key=("runs", "id", row[0])))

    def run_replaced(self):
        """Another key takes the number: the row that had it goes without a DELETE trigger."""
        run = self.one_run()
        if not run:
            return None
        columns, row = self.run_row(run)
        self.runs.remove(run)
        self.runs.append((row[0], run[1], run[2]))
        return self.write("run replaced", Step(*insert("runs", columns, row, "INSERT OR REPLACE INTO"),
                                               key=("runs", "id", row[0])))

    def run_moved(self):
        run = self.one_run()
        if not run or not self.tasks:
            return None
        task = self.pick(self.tasks)
        self.runs.remove(run)
        self.runs.append((run[0], task, 1000 + self.number))
        return self.write("run to another task", Step("UPDATE runs SET task_id = ?, run_number = ? WHERE id = ?",
                                                      (task, 1000 + self.number, run[0])))

    def run_renumbered(self):
        """Onto a number of the same task that may be taken."""
        run = self.one_run()
        if not run:
            return None
        other = self.pick([one for one in self.runs if one[1] == run[1]])
        head = self.pick(["OR REPLACE", "OR IGNORE"])
        if head == "OR REPLACE" and other != run:
            self.runs.remove(run)
            self.runs.remove(other)
            self.runs.append((run[0], run[1], other[2]))
        return self.write(f"update {head.lower()}", Step(f"UPDATE {head} runs SET run_number = ? WHERE id = ?",
                                                         (other[2], run[0])))

    def run_deleted(self):
        run = self.one_run()
        if not run:
            return None
        self.runs.remove(run)
        return self.write("run deleted", Step("DELETE FROM runs WHERE id = ?", (run[0],)))

    # Workers, planning, deployment, events.

    def worker(self):
        key = self.pick(self.workers) if len(self.workers) > 5 or self.below(2) else self.id("worker")
        if key not in self.workers:
            self.workers.append(key)
        columns = ("id", "role", "status", "last_heartbeat", "capabilities", "current_task_id", "metadata")
        row = (key, self.pick(["backend", "qa", "ai_reviewer"]), "active", self.time(), '["python"]',
               self.pick([None, self.pick(self.tasks or [None])]), self.pick([None, '{"pid": 1}']))
        return self.write("worker", Step(*insert("workers", columns, row, "INSERT OR REPLACE INTO"),
                                         key=("workers", "id", key)))

    def heartbeat(self):
        keys = self.workers + self.old_workers
        return self.write("heartbeat", Step(
            "UPDATE workers SET last_heartbeat = CURRENT_TIMESTAMP, status = ? WHERE id = ?",
            (self.pick(["active", "active", "idle", "error", "offline"]), self.pick(keys))))

    def queued(self):
        key = self.id("queue")
        self.queue.append(key)
        columns = ("id", "task_description", "priority", "requestor", "context_data", "status", "created_at")
        row = (key, "Plan it", self.pick([50, 85, 0, 100, None, "high", 12.5]), "user",
               self.pick([None, '{"files": 3}', "{'repr': 1}", ""]), "pending", self.time())
        short = self.below(2)
        columns, row = (columns[:2], row[:2]) if short else (columns, row)
        return self.write("queue", Step(*insert("planning_queue", columns, row), key=("planning_queue", "id", key)))

    def planned(self):
        """Takes an entry of the queue, then files its plan and the tasks of it: the planner's transaction."""
        queue = self.pick([self.queue, self.queue, self.old_queue])
        if not queue:
            return None
        key, plan = self.pick(queue), self.id("plan")
        if self.below(3) == 0:
            return self.write("queue taken", Step(
                "UPDATE planning_queue SET status = 'assigned', assigned_at = ?, assigned_agent = ? WHERE id = ?",
                (self.time(), f"ai-planner-{self.me}", key)))
        self.plans.append((plan, key))
        columns = ("id", "planning_task_id", "plan_data", "estimated_duration", "generated_workflow", "subtask_count",
                   "generated_at", "status")
        row = (plan, key, self.pick(['{"sub_tasks": []}', "{'repr': 1}"]), 60, self.pick(WORKFLOWS), self.below(9),
               self.time(), self.pick(["draft", "generated"]))
        tasks = [self.values(SHORT[1], status="queued") for _ in range(2)]
        return self.write(
            "plan",
            Step(*insert("execution_plans", columns, row), key=("execution_plans", "id", plan)),
            Step("UPDATE planning_queue SET status = ?, completed_at = ? WHERE id = ?",
                 (self.pick(["planned", "planned", "failed"]), self.time(), key)),
            Step(insert("tasks", SHORT[1], tasks[0])[0], tasks, many=True),
        )

    def plan_status(self):
        plans = [plan for plan, _ in self.plans] or self.old_plans
        if not plans:
            return None
        key = self.pick([self.pick(plans), self.pick(self.old_plans or plans)])
        return self.write("plan status", Step("UPDATE execution_plans SET status = ? WHERE id = ?",
                                              (self.pick(["approved", "executing", "completed", "failed", "odd"]), key)))

    def queue_deleted(self):
        """With foreign keys on, its plans go with it, and their executions."""
        old = len(self.old_queue) > 10 and self.below(2)
        queue = self.old_queue if old else self.queue
        if not queue:
            return None
        key = self.pick(queue)
        queue.remove(key)
        self.plans = [plan for plan in self.plans if plan[1] != key]
        return self.write("queue deleted", Step("DELETE FROM planning_queue WHERE id = ?", (key,)))

    def deployment(self):
        if not self.tasks:
            return None
        task = self.pick([self.pick(self.tasks), self.pick(self.old_tasks or self.tasks)])
        status = self.pick(["deploying", "deployed", "deployment_failed", "rolled_back"])
        self.state[task] = status
        columns = ("task_id", "event_type", "details", "timestamp")
        row = (task, f"deployment_{self.below(4)}", self.pick([None, '{"strategy": "ssh"}', "{'repr': 1}"]), self.time())
        tail = " RETURNING id, task_id" if RETURNS and self.below(2) else ""
        return self.write(
            "deployment",
            Step("UPDATE tasks SET status = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ?", (status, task)),
            Step(*insert("deployment_events", columns, row, tail=tail), key=("deployment_events", "task_id", task),
                 logged=False, numbered=True),
        )

    def event_row(self, about):
        columns = ("event_id", "event_type", "timestamp", "source_agent", "correlation_id", "payload", "metadata")
        return columns, (self.id("event"), self.pick(EVENTS), self.time(), self.me, about, '{"n": 1}', "{}")

    def event_step(self, about):
        columns, row = self.event_row(about)
        return Step(*insert("events", columns, row), key=("events", "event_id", row[0]))

    def event(self):
        return self.write("event", self.event_step(self.pick([None, f"{self.me}-corr"])))

    def event_batch(self):
        rows = [self.event_row(f"{self.me}-corr") for _ in range(3)]
        return self.write("events", Step(insert("events", *rows[0])[0], [row for _, row in rows], many=True))

    # Reads.

    def read(self, name, *steps, **more):
        return Operation("read", name, list(steps), **more)

    def task_step(self, key):
        return Step("SELECT id, title, task_type, priority, status, current_phase, workflow, payload, retry_count, tags "
                    "FROM tasks WHERE id = ?", (key,))

    def read_task(self):
        return self.read("task", self.task_step(self.pick(self.tasks))) if self.tasks else None

    def read_old(self):
        return self.read("old task", self.task_step(self.pick(self.old_tasks))) if self.old_tasks else None

    def read_runs(self):
        key = self.pick([self.pick(self.tasks or [""]), self.pick(self.old_tasks or [""])])
        return self.read("runs", Step(
            "SELECT t.id, t.status, r.id, r.run_number, r.status, r.result_data FROM tasks t LEFT JOIN runs r ON r.task_id = t.id "
            "WHERE t.id = ? ORDER BY r.run_number, r.id", (key,)))

    def read_own(self):
        return self.read("own tasks", Step(
            "SELECT status, count(*), sum(length(payload)) FROM tasks WHERE id > ? AND id < ? GROUP BY status ORDER BY status",
            (f"{self.me}-task-", f"{self.me}-task.")))

    def read_queue(self):
        key = self.pick(self.pick([self.queue or [""], self.old_queue or [""]]))
        return self.read("queue", Step(
            "SELECT q.id, q.status, q.priority, q.assigned_agent, p.id, p.status, p.subtask_count FROM planning_queue q "
            "LEFT JOIN execution_plans p ON p.planning_task_id = q.id WHERE q.id = ? ORDER BY p.id", (key,)))

    def read_board(self):
        return self.read("board", self.pick([
            Step("SELECT status, count(*) FROM tasks GROUP BY status ORDER BY status", logged=False),
            Step("SELECT id, priority, status FROM tasks WHERE status = 'queued' ORDER BY priority DESC LIMIT 20", logged=False),
            Step("SELECT id FROM workers WHERE status = 'active' ORDER BY id", logged=False),
        ]), others=True)

    def read_worker(self):
        return self.read("worker", Step("SELECT id, role, status, capabilities, current_task_id FROM workers WHERE id = ?",
                                        (self.pick(self.workers),)))

    def read_twice(self):
        """Two reads of one snapshot."""
        keys = self.some(self.tasks, 2)
        return self.read("snapshot", *[self.task_step(key) for key in keys], begin=True) if keys else None

    def read_events(self):
        return self.read("events", Step("SELECT event_id, event_type, payload FROM events WHERE source_agent = ? "
                                        "ORDER BY event_id DESC LIMIT 5", (self.me,)))

    # Reads, then writes.

    def claimed(self, name, *steps):
        return Operation("read-then-write", name, list(steps), think=0.1 + self.random() * 0.9, begin=True)

    def claim_step(self, key):
        status = self.pick(["assigned", "in_progress", "queued", "failed", "review_pending"])
        return [
            Step("SELECT id, status, retry_count FROM tasks WHERE id = ?", (key,)),
            Step("UPDATE tasks SET status = ?, retry_count = ?, updated_at = CURRENT_TIMESTAMP WHERE id = ? AND status = ?",
                 lambda results: (status, (results[0][0][2] or 0) + 1, key, results[0][0][1])),
        ]

    def claim(self):
        return self.claimed("claim", *self.claim_step(self.pick(self.claims)))

    def claim_old(self):
        return self.claimed("claim of an old task", *self.claim_step(self.pick(self.old_claims))) if self.old_claims else None

    def claim_run(self):
        task, key, worker = self.pick(self.claims), self.id("claimed-run"), self.claimer
        columns = ("id", "task_id", "worker_id", "run_number", "status")
        return self.claimed(
            "next run",
            Step("SELECT coalesce(max(run_number), 0) FROM runs WHERE task_id = ?", (task,)),
            Step(insert("runs", columns, columns)[0],
                 lambda results: (key, task, worker, results[0][0][0] + 1, "running"), key=("runs", "id", key)),
        )

    def claim_queue(self):
        if not self.queue_claims:
            return None
        key, at = self.pick(self.queue_claims), self.time()
        status = self.pick(["assigned", "planned", "failed", "pending"])
        return self.claimed(
            "claim of the queue",
            Step("SELECT id, status FROM planning_queue WHERE id = ?", (key,)),
            Step("UPDATE planning_queue SET status = ?, assigned_at = ? WHERE id = ? AND status IS ?",
                 lambda results: (status, at, key, results[0][0][1])),
        )


def plain(value):
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def digest(rows):
    """Rows as they are logged: short ones as they are, the others by hash."""
    text = json.dumps([[plain(value) for value in row] for row in rows])
    return json.loads(text) if len(text) <= 120 else f"{len(rows)} rows {hashlib.sha1(text.encode()).hexdigest()[:16]}"


class Live:
    """The platform's database. Returns what the statements return; rolls back what failed."""

    def __init__(self, path, seconds, isolation, foreign_keys, think):
        self.connection = sqlite3.connect(path, timeout=seconds, isolation_level=isolation)
        self.connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        self.last_insert = None
        self.think, self.pondered = think, 0.0

    def perform(self, operation, results, numbers, notes):
        connection = self.connection
        self.pondered = 0.0
        try:
            if operation.begin or (connection.isolation_level is None and len(operation.steps) > 1):
                connection.execute("BEGIN")
            for position, step in enumerate(operation.steps):
                if operation.think and position == len(operation.steps) - 1:
                    before = time.perf_counter()
                    time.sleep(operation.think * self.think)
                    self.pondered = time.perf_counter() - before
                self.step(step, results, numbers, notes)
            if operation.undo:
                connection.rollback()
            elif connection.in_transaction:
                connection.commit()
        except sqlite3.IntegrityError as error:
            results.append(str(error))
            if connection.in_transaction:
                connection.rollback()
        except sqlite3.Error:
            if connection.in_transaction:
                connection.rollback()
            raise

    def step(self, step, results, numbers, notes):
        cursor = self.connection.cursor()
        params = step.params(results) if callable(step.params) else step.params
        if step.many:
            cursor.executemany(step.sql, params)
            results.append((cursor.rowcount,))
            notes.append({"rowcount": cursor.rowcount})
            # What executemany inserted last is not said, and moves the connection's own idea of it.
            self.last_insert = self.connection.execute("SELECT last_insert_rowid()").fetchone()[0]
            return
        cursor.execute(step.sql, params)
        rows = cursor.fetchall()
        results.append(rows if cursor.description else (cursor.rowcount,))
        if step.numbered:
            numbers.append(cursor.lastrowid)
        note = {"rowcount": cursor.rowcount}
        if cursor.description:
            note["rows"] = digest(rows) if step.logged else "of others"
        if step.sql[:6] in ("INSERT", "UPDATE", "DELETE"):
            note["lastrowid"] = self.inserted(step, cursor.lastrowid)
        notes.append(note)

    def inserted(self, step, rowid):
        """What lastrowid says: `own`, the row that was just inserted, or `unchanged`."""
        if step.key is not None and rowid is not None:
            table, column, value = step.key
            row = self.connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,)).fetchone()
            if row is not None and row[0] == value:
                self.last_insert = rowid
                return "own"
        return "unchanged" if rowid is None or rowid in (self.last_insert, 0) else f"wrong: {rowid}"


class Copy:
    """What the database has to hold of this agent's share: every acknowledged transaction, run a second time."""

    def __init__(self, path, me, agents, foreign_keys):
        self.connection = connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.create_function("owner", 1, lambda key: zlib.crc32(key or b"") % agents)
        connection.execute("ATTACH ? AS live", (path,))
        connection.execute("BEGIN")
        for kind in ("table", "index"):
            listed = connection.execute(
                "SELECT sql FROM live.sqlite_schema WHERE type = ? AND sql IS NOT NULL AND tbl_name IN (%s) ORDER BY rowid"
                % ", ".join("?" for _ in OWNER_KEYS), (kind, *OWNER_KEYS))
            for (text,) in listed.fetchall():
                connection.execute(text)
        for table, key in OWNER_KEYS.items():
            # Every worker can be referred to; only those of the share are saved.
            share = "1" if table == "workers" else f"owner(CAST({key} AS BLOB)) = {me}"
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM live.{table} WHERE {share}")
        connection.execute("COMMIT")
        connection.execute("DETACH live")
        connection.execute("INSERT INTO sqlite_sequence (name, seq) SELECT 'deployment_events', 0 "
                           "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence)")
        workers = connection.execute("SELECT id FROM workers").fetchall()
        self.strangers = [row for row in workers if zlib.crc32(row[0].encode()) % agents != me]
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    def keys(self, table):
        return [row[0] for row in self.connection.execute(
            f"SELECT id FROM {table} WHERE typeof(id) = 'text' ORDER BY id").fetchall()]

    def existing(self):
        strangers = {row[0] for row in self.strangers}
        return (self.keys("tasks"), self.keys("planning_queue"), self.keys("execution_plans"),
                [key for key in self.keys("workers") if key not in strangers])

    def perform(self, operation, numbers):
        connection, results, numbers = self.connection, [], list(numbers)
        connection.execute("BEGIN")
        try:
            for step in operation.steps:
                params = step.params(results) if callable(step.params) else step.params
                if step.numbered and numbers:
                    # The number that the live database gave, which all agents draw from.
                    connection.execute("UPDATE sqlite_sequence SET seq = ?", (numbers.pop(0) - 1,))
                if step.many:
                    results.append((connection.executemany(step.sql, params).rowcount,))
                    continue
                cursor = connection.execute(step.sql, params)
                rows = cursor.fetchall()
                results.append(rows if cursor.description else (cursor.rowcount,))
            connection.execute("ROLLBACK" if operation.undo else "COMMIT")
        except sqlite3.IntegrityError as error:
            results.append(str(error))
            connection.execute("ROLLBACK")
        return results

    def save(self, path):
        self.connection.execute("PRAGMA foreign_keys = OFF")
        self.connection.executemany("DELETE FROM workers WHERE id = ?", self.strangers)
        target = sqlite3.connect(path)
        self.connection.backup(target)
        target.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--id", type=int, required=True)
    parser.add_argument("--agents", type=int, default=1, help="how many share the rows that are there")
    parser.add_argument("--rate", type=float, default=15, help="operations per second")
    parser.add_argument("--think", type=float, default=1, help="milliseconds that a read-then-write ponders at most")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--operations", type=int)
    parser.add_argument("--log", required=True)
    parser.add_argument("--expected", help="where to save the copy, default LOG.db")
    options = parser.parse_args()

    timeout = 5 + int(random.Random(options.seed * 7919 + options.id).random() * 26)
    # Among four agents, each combination once.
    foreign_keys = (options.seed + options.id) % 2 == 0
    isolation = None if (options.seed + options.id) // 2 % 2 == 0 else ""

    stop, going = threading.Event(), threading.Event()

    def end(*_):
        stop.set()
        going.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    copy = Copy(options.database, options.id, options.agents, foreign_keys)
    plan = Plan(options.seed, options.id, foreign_keys, copy.existing())
    live = Live(options.database, timeout, isolation, foreign_keys, options.think / 1000)
    log = open(options.log, "w", encoding="utf-8")

    def write(entry):
        log.write(json.dumps(entry, separators=(",", ":")) + "\n")
        log.flush()

    write({"agent": options.id, "seed": options.seed, "agents": options.agents, "timeout": timeout,
           "autocommit": isolation is None, "foreignKeys": foreign_keys, "python": sys.version.split()[0],
           "sqlite": sqlite3.sqlite_version})
    print("ready", flush=True)

    def obey():
        for line in iter(sys.stdin.readline, ""):
            if line == "go\n":
                going.set()
            else:
                going.clear()
        end()

    threading.Thread(target=obey, daemon=True).start()
    # In slices: a wait without an end would not let the signal through.
    while not going.wait(0.5):
        pass
    started = time.monotonic()
    since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    # Agents know nothing of each other: their operations come at random times, not in turn.
    jitter = random.Random(options.seed * 104_729 + options.id).random
    slot = started
    done = 0
    while not stop.is_set():
        if not going.is_set():
            print("paused", flush=True)
            while not going.wait(0.5):
                pass
            continue
        if options.operations is not None and done >= options.operations:
            break
        if options.seconds is not None and time.monotonic() - started >= options.seconds:
            break
        stop.wait(max(0.0, slot + jitter() / options.rate - time.monotonic()))
        if stop.is_set() or not going.is_set():
            continue
        # Not made up for when it is late: an agent that had to wait does not hurry afterwards.
        slot = max(slot, time.monotonic() - 1 / options.rate) + 1 / options.rate
        operation = plan.next()
        done += 1
        entry = {"op": done, "kind": operation.kind, "name": operation.name}
        results, numbers, notes = [], [], []
        begin = time.perf_counter()
        try:
            live.perform(operation, results, numbers, notes)
            error = None
        except sqlite3.Error as failure:
            error = {"text": str(failure), "code": getattr(failure, "sqlite_errorname", type(failure).__name__)}
        entry["ms"] = round((time.perf_counter() - begin - live.pondered) * 1000, 3)
        entry["at"] = round(time.monotonic() - started, 3)
        if error is not None:
            entry["error"] = error
        else:
            refused = results[-1] if isinstance(results[-1], str) else None
            if not operation.others:
                expected = copy.perform(operation, numbers)
                if expected != results:
                    entry["unexpected"] = {"got": repr(results)[:2000], "expected": repr(expected)[:2000]}
                elif operation.kind == "read-then-write":
                    # What it read depends on those before it that failed, which is no matter of the program's.
                    for note in notes:
                        if "rows" in note:
                            note["rows"] = "as acknowledged"
            if refused is not None:
                notes.append({"refused": refused})
            entry["returned"] = notes
        write(entry)

    live.connection.close()
    until = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    copy.save(options.expected or options.log + ".db")
    write({"end": done, "since": since, "until": until, "seconds": round(time.monotonic() - started, 3)})
    log.close()


if __name__ == "__main__":
    main()
