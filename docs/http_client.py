#!/usr/bin/env python3
"""A device in one file: upload, long poll and apply over plain HTTP (PROTOCOL.md), with Python's standard library.

    http_client.py FILE signin http://127.0.0.1:8080 ann     (a server in development; or: token URL JWT)
    http_client.py FILE put business.users '{"name": "Ann"}' [UUID] | delete business.users UUID
    http_client.py FILE list business.users | lost | sync | watch

What the server has (table `row`) and local edits (`edit`) are kept apart, and the application sees one laid over the
other: no page ever meets an edit. In a conflict the server's row wins, and the edit is kept in `lost`.
"""
import json, random, sqlite3, sys, time, urllib.error, urllib.request, uuid

SCHEMA = """PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS row (tbl, pk, version INTEGER, payload, PRIMARY KEY (tbl, pk));
-- id is the source change id, base the version that the edit was made on: neither changes once it may have been sent.
CREATE TABLE IF NOT EXISTS edit (id INTEGER PRIMARY KEY AUTOINCREMENT, tbl, pk, op, payload, base);
CREATE TABLE IF NOT EXISTS lost (id, tbl, pk, op, payload, why);"""

class Refused(Exception):
    """The server did not carry out a request: its status, the error's code, and how many seconds to wait."""

def text(payload):
    return None if payload is None else json.dumps(payload, ensure_ascii=False)

class Device:
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level="IMMEDIATE", timeout=30)  # `with self.db`: a transaction
        self.db.executescript(SCHEMA)
    def get(self, name):
        return (self.db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone() or [None])[0]
    def set(self, **values):
        self.db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())

    def request(self, path, body=None):
        headers = {"Authorization": f"Bearer {self.get('token')}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.get("server") + path, body and json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=90) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            code = json.load(error)["error"] if "json" in error.headers.get("Content-Type", "") else error.reason
            raise Refused(error.code, code, int(error.headers.get("Retry-After") or 0)) from None

    def edit(self, table, pk, op, payload=None):
        """On top of an unsent edit of the row, or else of what the server has."""
        with self.db:
            self.db.execute("INSERT INTO edit (tbl, pk, op, payload, base) SELECT :t, :k, :o, :p, coalesce("
                            "(SELECT base FROM edit WHERE tbl = :t AND pk = :k ORDER BY id LIMIT 1),"
                            "(SELECT version FROM row WHERE tbl = :t AND pk = :k), 0)",
                            {"t": table, "k": pk, "o": op, "p": payload})

    def rows(self, table):
        rows = dict(self.db.execute("SELECT pk, payload FROM row WHERE tbl = ?", (table,)))
        rows.update(self.db.execute("SELECT pk, payload FROM edit WHERE tbl = ? ORDER BY id", (table,)))
        return {pk: payload for pk, payload in sorted(rows.items()) if payload is not None}

    def upload(self):
        """The oldest edit of each row, until none is left. Without an answer the same go again, under the same ids."""
        while edits := self.db.execute("SELECT * FROM edit WHERE id IN (SELECT min(id) FROM edit GROUP BY tbl, pk)"
                                       " ORDER BY id LIMIT 100").fetchall():
            changes = [dict(zip(("schema", "table"), table.split(".")), source_change_id=id, op=op, pk=pk,
                            server_version=base, payload=payload and json.loads(payload))
                       for id, table, pk, op, payload, base in edits]
            reply = self.request("/sync/upload", {"epoch": self.get("epoch"), "changes": changes})
            with self.db:
                for edit, status in zip(edits, reply["statuses"], strict=True):
                    self.settle(*edit, status)

    def settle(self, id, table, pk, op, payload, base, status):
        if not self.db.execute("UPDATE edit SET id = id WHERE id = ?", (id,)).rowcount:
            return  # another process with this file was faster
        if status["status"] == "applied":
            version = status.get("new_server_version", 0)  # none: a delete of a row that never was
            if version:
                self.hold(table, pk, version, payload)
            self.db.execute("DELETE FROM edit WHERE id = ?", (id,))
            self.db.execute("UPDATE edit SET base = ? WHERE tbl = ? AND pk = ?", (version, table, pk))
            return
        if row := status.get("server_row"):
            self.hold(table, pk, row["server_version"], text(row["payload"]))
        # Later edits of the row were made on top of this one: they go with it.
        why = status["status"] if row else json.dumps(status["invalid"])
        self.db.execute("INSERT INTO lost SELECT id, tbl, pk, op, payload, ? FROM edit WHERE tbl = ? AND pk = ?",
                        (why, table, pk))
        self.db.execute("DELETE FROM edit WHERE tbl = ? AND pk = ?", (table, pk))

    def hold(self, table, pk, version, payload):
        """Takes a state of a row, unless a newer one is here already."""
        self.db.execute("INSERT INTO row VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version,"
                        " payload = excluded.payload WHERE excluded.version > version", (table, pk, version, payload))

    def download(self, wait=0):
        """All there is, each page and the cursor in one transaction; waits up to `wait` seconds for the first."""
        more = True
        while more:
            cursor, old = self.get("cursor") or 0, self.get("hydrated")  # a new file gets its own old rows, too
            query = f"after={cursor}&limit=1000&" + (f"wait={wait}" if old else "include_self=true")
            page = self.request("/sync/download?" + query)
            if self.get("epoch") not in (None, page["epoch"]) or page["head"] < cursor:
                raise Refused(409, "epoch_mismatch", 0)
            more, wait = page["has_more"], 0
            with self.db:
                end = page["next_after"] if more else max(page["next_after"], min(page["window_until"], page["head"]))
                self.set(cursor=end, epoch=page["epoch"])
                for change in page["changes"]:
                    table = f'{change["schema"]}.{change["table"]}'
                    self.hold(table, change["pk"], change["server_version"], text(change.get("payload")))
                if not more and not self.get("hydrated"):
                    self.hydrated(page.get("highest_source_change_id") or 0)

    def hydrated(self, highest):
        """The first pass is complete: unsent edits get ids above all that this device has ever used."""
        if self.get("restored"):  # what this device has and the server lost is offered again
            self.db.execute("INSERT INTO edit (tbl, pk, op, payload) SELECT tbl, pk, 'INSERT', payload FROM row"
                            " WHERE version = 0 AND payload NOT NULL AND (tbl, pk) NOT IN (SELECT tbl, pk FROM edit)")
        self.db.execute("DELETE FROM row WHERE version = 0")
        self.db.execute("UPDATE edit SET base = 0 WHERE (tbl, pk) NOT IN (SELECT tbl, pk FROM row)")
        used = self.db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
        self.db.execute("UPDATE edit SET id = id + ?", (max(used, highest),))
        self.db.execute("INSERT INTO edit (id) VALUES (?)", (used + max(used, highest) + 1,))  # later ones are higher
        self.db.execute("DELETE FROM edit WHERE tbl IS NULL")
        self.set(hydrated=1, restored=0)

    def sync(self, wait=0):
        """Down first for a new file, up, down; all over again when the server's history is not what it was."""
        try:
            self.get("hydrated") or self.download()
            self.upload()
            self.download(wait)
        except Refused as refused:
            if refused.args[1] not in ("epoch_mismatch", "history_pruned"):
                raise
            with self.db:
                self.db.execute("UPDATE row SET version = 0")
                self.set(cursor=0, epoch=None, hydrated=0, restored=int(refused.args[1] == "epoch_mismatch"))
            self.sync(wait)

def watch(device, pause=1):
    while True:
        try:
            device.sync(wait=20)
            pause = 1
        except (Refused, OSError) as error:  # away or busy: later, and never before the server said
            status, _, wait = error.args if isinstance(error, Refused) else (503, "", 0)
            if status not in (429, 500, 502, 503, 504):
                raise
            print(f"later: {error}", file=sys.stderr, flush=True)
            time.sleep(wait + random.uniform(0, pause))
            pause = min(pause * 2, 60)

def main(path, *command):
    device = Device(path)
    match command:
        case ("signin" | "token") as how, server, who:
            with device.db:
                device.set(server=server, token=who, device=device.get("device") or str(uuid.uuid4()))
                if how == "signin":
                    who = {"username": who, "password": "any", "device_id": device.get("device")}
                    device.set(token=device.request("/signin", who)["token"])
        case "put", table, payload, *key:
            device.edit(table, str(uuid.UUID(key[0]) if key else uuid.uuid4()), "UPDATE", text(json.loads(payload)))
        case "delete", table, key:
            device.edit(table, str(uuid.UUID(key)), "DELETE")
        case "list", table:
            for pk, payload in device.rows(table).items(): print(pk, payload)
        case ("lost",):
            for lost in device.db.execute("SELECT * FROM lost ORDER BY id"): print(*lost)
        case ("sync",):
            device.sync()
        case ("watch",):
            watch(device)
        case _:
            sys.exit(__doc__)

if __name__ == "__main__":
    try:
        main(*sys.argv[1:] or sys.exit(__doc__))
    except (Refused, OSError) as error:
        sys.exit(f"http_client.py: {error}")
    except KeyboardInterrupt:
        pass
