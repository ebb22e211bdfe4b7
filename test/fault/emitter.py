"""An agent that tells what it does by SQL alone: python3 emitter.py DATABASE NAME. Prints each event once it is committed."""

import json
import sqlite3
import sys
import time

path, name = sys.argv[1:]
connection = sqlite3.connect(path, timeout=30, isolation_level=None)
n = 0
while True:
    n += 1
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "INSERT INTO hive_events (event_type, source_agent, correlation_id, subject, payload) VALUES (?, ?, ?, ?, ?)",
        ("task.completed", "hive-coder", name, "sql-%d" % (n % 5), json.dumps({"name": name, "n": n})),
    )
    connection.execute("COMMIT")
    print(json.dumps({"name": name, "n": n}), flush=True)
    time.sleep(0.005)
