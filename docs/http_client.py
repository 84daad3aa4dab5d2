#!/usr/bin/env python3
"""A device in one file: upload, long poll and apply over plain HTTP.

Python's standard library, nothing else; written to be read and taken apart.
The protocol is PROTOCOL.md beside this file. What the server has (table `row`)
and local edits (table `edit`) are kept apart, and the application sees the one
laid over the other: so a page never meets an edit, and a lost edit uncovers the
server's row. Conflicts: the server's row wins, the edit is kept in `lost`.

    http_client.py a.db signin http://127.0.0.1:8080 ann      # or: token URL JWT
    http_client.py a.db put business.users '{"name": "Ann"}'
    http_client.py a.db watch

Integers and text are exact; decimals that arrive pass through Python's float.
"""
import argparse, json, random, sqlite3, sys, time, urllib.error, urllib.parse, urllib.request, uuid

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS row (tbl, pk, version INTEGER, payload, PRIMARY KEY (tbl, pk));
-- The rowid is the source change id; an edit that starts over gets a new one.
-- base is the version it was made on, however far the row has moved by the time it is sent.
CREATE TABLE IF NOT EXISTS edit (id INTEGER PRIMARY KEY AUTOINCREMENT, tbl, pk, op, payload, base);
CREATE TABLE IF NOT EXISTS lost (id INTEGER PRIMARY KEY, tbl, pk, op, payload, why);
"""
BATCH = 100  # changes per upload; any server takes as many


class Refused(Exception):
    """The server's answer to a request that it did not carry out."""

    def __init__(self, status, body, retry_after):
        super().__init__(f"{status} {body.get('error')}: {body.get('message')}")
        self.status, self.code, self.retry_after = status, body.get("error"), retry_after


class Device:
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.executescript(SCHEMA)

    def get(self, name):
        found = self.db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return found and found[0]

    def set(self, **values):
        self.db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())

    def request(self, path, body=None, timeout=90):
        headers = {"Authorization": f"Bearer {self.get('token')}", "Content-Type": "application/json"}
        data = None if body is None else body.encode()
        request = urllib.request.Request(self.get("server") + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            try:
                body = json.load(error)
            except ValueError:
                body = {}
            raise Refused(error.code, body, int(error.headers.get("Retry-After") or 1)) from None

    # ------------------------------------------------- what the application does
    def edit(self, table, pk, op, payload=None):
        with transaction(self.db):
            # On top of an unsent edit of the row, or else of what the server has.
            base = self.db.execute(
                "SELECT base, id FROM edit WHERE tbl = :t AND pk = :k UNION ALL"
                " SELECT version, 1e18 FROM row WHERE tbl = :t AND pk = :k ORDER BY 2", {"t": table, "k": pk}).fetchone()
            edit = (table, pk, op, payload, base[0] if base else 0)
            self.db.execute("INSERT INTO edit (tbl, pk, op, payload, base) VALUES (?, ?, ?, ?, ?)", edit)

    def rows(self, table):
        """The table as the application sees it: {pk: payload text}."""
        rows = dict(self.db.execute("SELECT pk, payload FROM row WHERE tbl = ?", (table,)))
        rows.update(self.db.execute("SELECT pk, payload FROM edit WHERE tbl = ? ORDER BY id", (table,)))
        return {pk: payload for pk, payload in sorted(rows.items()) if payload is not None}

    # -------------------------------------------------------------------- upload
    def upload(self):
        """Sends edits, oldest first and one of a row at a time, until none is left."""
        sent = 0
        while self.get("hydrated"):
            edits = self.db.execute(
                "SELECT * FROM edit WHERE id IN (SELECT min(id) FROM edit GROUP BY tbl, pk)"
                f" ORDER BY id LIMIT {BATCH}").fetchall()
            if not edits:
                break
            changes = []
            for id, table, pk, op, payload, base in edits:
                schema, _, name = table.rpartition(".")
                change = {"source_change_id": id, "schema": schema, "table": name, "op": op, "pk": pk,
                          "server_version": base}
                # The payload goes as the text it is: no number is rounded.
                changes.append(f'{json.dumps(change)[:-1]}, "payload": {payload or "null"}}}')
            epoch = json.dumps(self.get("epoch"))
            reply = self.request("/sync/upload", f'{{"epoch": {epoch}, "changes": [{", ".join(changes)}]}}')
            with transaction(self.db):
                for edit, status in zip(edits, reply["statuses"], strict=True):
                    self.settle(*edit[:5], status)
            sent += len(edits)
        return sent

    def settle(self, id, table, pk, op, payload, status):
        if status["status"] == "applied":
            version = status.get("new_server_version") or 0
            if version:
                self.hold(table, pk, version, payload)
            self.db.execute("DELETE FROM edit WHERE id = ?", (id,))
            self.db.execute("UPDATE edit SET base = ? WHERE tbl = ? AND pk = ?", (version, table, pk))
            return
        row = status.get("server_row")
        if row:
            self.hold(table, pk, row["server_version"], text(row["payload"]))
        # Later edits of the row were made on top of this one: they go with it.
        why = status["status"] if row else json.dumps(status.get("invalid"))
        edits = (why, table, pk)
        self.db.execute("INSERT INTO lost SELECT id, tbl, pk, op, payload, ? FROM edit WHERE tbl = ? AND pk = ?", edits)
        self.db.execute("DELETE FROM edit WHERE tbl = ? AND pk = ?", (table, pk))

    def hold(self, table, pk, version, payload):
        """Takes a state of a row, unless a newer one is here already."""
        self.db.execute("INSERT INTO row VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version,"
                        " payload = excluded.payload WHERE excluded.version > version", (table, pk, version, payload))

    # ------------------------------------------------------------------ download
    def download(self, wait=0):
        """Applies everything there is; waits up to `wait` seconds for the first of it."""
        applied, more, until = 0, True, 0
        while more:
            cursor, hydrated = self.get("cursor") or 0, self.get("hydrated")
            query = {"after": cursor, "limit": 1000, "until": until, "wait": wait if hydrated else 0}
            if not hydrated:
                query["include_self"] = "true"
            elif self.get("epoch"):
                query["epoch"] = self.get("epoch")
            page = self.request("/sync/download?" + urllib.parse.urlencode(query))
            if hydrated and page.get("head", cursor) < cursor:
                raise Refused(409, {"error": "epoch_mismatch", "message": "the server is behind"}, 0)
            more, until, wait = page["has_more"], page["window_until"], 0
            with transaction(self.db):
                for change in page["changes"]:
                    table = f'{change["schema"]}.{change["table"]}'
                    self.hold(table, change["pk"], change["server_version"], text(change.get("payload")))
                end = page["next_after"] if more else max(page["next_after"], min(until, page.get("head", 0)))
                self.set(cursor=end, epoch=page.get("epoch"))
                if not hydrated and not more:
                    self.hydrated(page.get("highest_source_change_id") or 0)
            applied += len(page["changes"])
        return applied

    def hydrated(self, highest):
        """The first pass is complete: edits get ids above those that this device has used."""
        if self.get("restored"):  # what this device has and the server lost is offered again
            self.db.execute("INSERT INTO edit (tbl, pk, op, payload, base) SELECT tbl, pk, 'INSERT', payload, 0 FROM row r"
                            " WHERE version = 0 AND payload NOT NULL AND NOT EXISTS"
                            " (SELECT 1 FROM edit e WHERE e.tbl = r.tbl AND e.pk = r.pk)")
            self.db.execute("UPDATE edit SET base = 0 WHERE NOT EXISTS (SELECT 1 FROM row r"
                            " WHERE r.tbl = edit.tbl AND r.pk = edit.pk AND version > 0)")
        self.db.execute("DELETE FROM row WHERE version = 0")
        used = self.db.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'edit'").fetchone()[0] or 0
        last = max(used, highest)
        self.db.execute("UPDATE edit SET id = id + ?", (last,))
        self.db.execute("DELETE FROM sqlite_sequence WHERE name = 'edit'")
        self.db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('edit', ?)", (2 * last,))
        self.set(hydrated=1, restored=0)

    def sync(self, wait=0):
        """Down, up, and down again if the server waited for it; starts over when history was replaced."""
        try:
            if not self.get("hydrated"):
                self.download()
            return self.upload() + self.download(wait)
        except Refused as refused:
            if refused.code not in ("epoch_mismatch", "history_pruned"):
                raise
            with transaction(self.db):
                self.db.execute("UPDATE row SET version = 0")
                self.set(cursor=0, epoch=None, hydrated=0, restored=int(refused.code == "epoch_mismatch"))
            return self.sync(wait)


class transaction:
    """Everything inside is done, or nothing."""

    def __init__(self, db):
        self.db = db

    def __enter__(self):
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, error, *_):
        self.db.execute("ROLLBACK" if error else "COMMIT")


def text(payload):
    return None if payload is None else json.dumps(payload, ensure_ascii=False)


def watch(device):
    """Uploads and long-polls for ever; a server that is away or busy is asked again later."""
    pause = 1
    while True:
        try:
            changed = device.sync(wait=20)
            pause = 1
            if changed:
                print(f"{changed} changes", flush=True)
        except (Refused, OSError) as error:
            if isinstance(error, Refused) and error.status not in (429, 500, 502, 503, 504):
                raise
            print(f"later: {error}", file=sys.stderr, flush=True)
            time.sleep(max(getattr(error, "retry_after", 0), random.uniform(0, pause)))
            pause = min(pause * 2, 60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="this device's SQLite file")
    command = parser.add_subparsers(dest="command", required=True)
    for name, arguments in {"signin": ["server", "user"], "token": ["server", "token"], "put": ["table", "payload"],
                            "delete": ["table", "key"], "list": ["table"], "lost": [], "sync": [], "watch": []}.items():
        sub = command.add_parser(name)
        for argument in arguments:
            sub.add_argument(argument)
        if name == "put":
            sub.add_argument("--key", default=str(uuid.uuid4()), help="the row's UUID [default: a new one]")
    args = parser.parse_args()
    device = Device(args.file)
    if args.command == "signin":
        device.set(server=args.server, token="")
        name = device.get("device") or str(uuid.uuid4())
        who = {"username": args.user, "password": "any", "device_id": name}
        device.set(device=name, token=device.request("/signin", json.dumps(who))["token"])
    elif args.command == "token":
        device.set(server=args.server, token=args.token)
    elif args.command == "put":
        key = str(uuid.UUID(args.key))
        device.edit(args.table, key, "UPDATE", text(json.loads(args.payload)))
        print(key)
    elif args.command == "delete":
        device.edit(args.table, str(uuid.UUID(args.key)), "DELETE")
    elif args.command == "list":
        for pk, payload in device.rows(args.table).items():
            print(pk, payload)
    elif args.command == "lost":
        for lost in device.db.execute("SELECT id, tbl, pk, op, payload, why FROM lost ORDER BY id"):
            print(*lost)
    elif not device.get("server"):
        sys.exit("sign in first: http_client.py FILE signin SERVER USER, or token SERVER JWT")
    elif args.command == "sync":
        print(f"{device.sync()} changes")
    else:
        watch(device)


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError, ValueError) as error:
        sys.exit(f"http_client.py: {error}")
    except KeyboardInterrupt:
        pass
