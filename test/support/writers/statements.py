"""Runs SQL as an agent would, with whatever SQLite this Python has. Reads [{path, steps: [{sql, params, many}]}] from
stdin and answers with what each statement returned; a parameter "@path" is the path. Job by job, a connection each,
which is not committed at the end.
"""

import json
import sqlite3
import sys


def step(connection, path, one):
    params = [path if value == "@path" else value for value in one.get("params", [])]
    try:
        if "many" in one:
            cursor = connection.executemany(one["sql"], one["many"])
        else:
            cursor = connection.execute(one["sql"], params)
        rows = cursor.fetchall() if cursor.description is not None else None
        changes, last = connection.execute("SELECT changes(), last_insert_rowid()").fetchone()
        inserted = one["sql"].lstrip()[:7].upper() in ("INSERT ", "REPLACE") and changes != 0
        return {"rows": rows, "rowcount": cursor.rowcount, "changes": changes, "lastrowid": last if inserted else None}
    except sqlite3.Error as error:
        return {"error": str(error)}


def main():
    answers = []
    for job in json.load(sys.stdin):
        inside = job.get("attached", False)
        connection = sqlite3.connect(":memory:" if inside else job["path"], isolation_level=None, timeout=30)
        answers.append([step(connection, job["path"], one) for one in job["steps"]])
        connection.close()
    json.dump(answers, sys.stdout)


if sys.argv[1:] == ["version"]:
    print(sqlite3.sqlite_version)
else:
    main()
