#!/usr/bin/env python3
"""Upload, long poll and apply (PROTOCOL.md) in Python's standard library.

    http_client.py FILE token http://127.0.0.1:8080 JWT   (for each file a device name of its own)
    http_client.py FILE put business.users '{"name": "Ann"}' [UUID]   (null deletes the row)
    http_client.py FILE list business.users | sync | watch

In a conflict the server's row wins, and the edit is kept in the table `lost`. Where the client
would have to guess it stops and keeps everything: http_device.py goes on there.
"""
import base64, http.client, json, random, sqlite3, sys, time, uuid
import urllib.error, urllib.parse, urllib.request

SCHEMA = """PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value);
-- What the server has. Payloads are JSON: null where the row is deleted.
CREATE TABLE IF NOT EXISTS row (tbl, pk, payload, version, PRIMARY KEY (tbl, pk));
-- What it does not have yet: id is the source change id, base the version that was edited.
CREATE TABLE IF NOT EXISTS edit (id INTEGER PRIMARY KEY AUTOINCREMENT, tbl, pk, payload, base);
CREATE TABLE IF NOT EXISTS lost (id INTEGER, tbl, pk, payload, status);
-- What the application sees: the last edit of a row, or else what the server has.
CREATE VIEW IF NOT EXISTS seen AS SELECT max(id), tbl, pk, payload, base FROM (SELECT 0 AS id,
    tbl, pk, payload, version AS base FROM row UNION ALL SELECT * FROM edit) GROUP BY tbl, pk;"""

class Device:
    COMMANDS = ["token", "put", "list", "sync", "watch"]
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level="IMMEDIATE", timeout=30)
        self.db.executescript(SCHEMA)
    def state(self):
        return dict(self.db.execute("SELECT name, value FROM state"))
    def set(self, **values):
        self.db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())

    def token(self, server, token):
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        owner = claims["sub"] + " on " + claims["did"]
        if self.state().get("owner", owner) != owner:
            raise ValueError("this file belongs to " + self.state()["owner"])
        with self.db:
            self.set(server=server, owner=owner, token=token)

    def put(self, table, payload, pk=None):
        row = {"tbl": table, "pk": str(uuid.UUID(pk) if pk else uuid.uuid4())}
        row["payload"] = json.dumps(json.loads(payload))
        with self.db:
            self.db.execute("INSERT INTO edit VALUES (NULL, :tbl, :pk, :payload, ifnull("
                            "(SELECT base FROM seen WHERE tbl = :tbl AND pk = :pk), 0))", row)

    def list(self, table):
        for row in self.db.execute("SELECT pk, payload FROM seen WHERE tbl = ?"
                                   " AND payload <> 'null' ORDER BY pk", (table,)):
            print(*row)

    def request(self, path, body=None):
        state = self.state()
        if "token" not in state:
            raise ValueError("it needs a token first: http_client.py FILE token URL JWT")
        headers = {"Authorization": "Bearer " + state["token"], "Content-Type": "application/json"}
        body = body and json.dumps(body).encode()
        request = urllib.request.Request(state["server"] + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except (http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise OSError(f"not a whole answer: {error!r}") from error  # or of something in between

    def sync(self, wait=0):
        while self.download(): pass
        self.upload()
        while self.download(wait): pass

    def upload(self):
        """Oldest first, and one at a time: http_device.py sends many at once."""
        while edit := self.db.execute("SELECT * FROM edit ORDER BY id").fetchone():
            status, = self.send([edit])
            with self.db:
                self.settle(*edit, status)

    def send(self, edits):
        """Without an answer they go again as they are: the server knows the ids it has seen."""
        changes = [{"schema": table.split(".")[0], "table": table.split(".")[-1], "pk": pk,
                    "source_change_id": id, "server_version": base, "payload": json.loads(payload),
                    "op": "DELETE" if payload == "null" else "UPDATE"}
                   for id, table, pk, payload, base in edits]
        with self.db:
            self.db.execute("INSERT INTO state VALUES ('sent', :id) ON CONFLICT DO UPDATE SET"
                            " value = max(value, :id)", {"id": edits[-1][0]})
            upload = {"epoch": self.state()["epoch"], "changes": changes}
        try:
            return self.request("/sync/upload", upload)["statuses"]
        except urllib.error.HTTPError as error:
            says = error.read().decode(errors="replace")
            if error.code != 413 and '"invalid_request"' not in says:
                error.msg += " " + says
                raise
            return [{"status": "invalid", "message": says}] * len(edits)

    def settle(self, id, table, pk, payload, base, status):
        if not self.db.execute("DELETE FROM edit WHERE id = ?", (id,)).rowcount:
            return  # another process was faster
        if status["status"] == "applied":
            base = status.get("new_server_version", 0)  # none: a delete of a row that never was
            self.hold(table, pk, payload, base)
            self.db.execute("UPDATE edit SET base = ? WHERE tbl = ? AND pk = ?", (base, table, pk))
        else:
            self.db.execute("INSERT INTO lost VALUES (?, ?, ?, ?, ?)",
                            (id, table, pk, payload, json.dumps(status)))
            if row := status.get("server_row"):
                self.hold(table, pk, json.dumps(row["payload"]), row["server_version"])

    def hold(self, table, pk, payload, version):
        """The newest state of a row stays, in whatever order they come."""
        self.db.execute("INSERT INTO row (tbl, pk, payload, version) VALUES (?, ?, ?, ?)"
                        " ON CONFLICT DO UPDATE SET payload = excluded.payload,"
                        " version = excluded.version WHERE version < excluded.version",
                        (table, pk, payload, version))

    def download(self, wait=0):
        """One page, in one transaction with the cursor; whether there are more."""
        if type(self) is Device and self.state().get("hydrated") == 0:
            raise ValueError("http_device.py reads everything again here: let it finish")
        after, epoch = self.state().get("cursor", 0), self.state().get("epoch", "")
        query = {"after": after, "epoch": epoch, "limit": 1000, "wait": wait}
        page = self.request("/sync/download?" + urllib.parse.urlencode(query))
        highest, sent = page.get("highest_source_change_id", 0), self.state().get("sent", 0)
        if page["head"] < after or highest > sent:
            raise ValueError("the server was put back, or this file was, or the file is a copy")
        with self.db:
            self.apply(page)
        return page["has_more"]

    def apply(self, page):
        for change in page["changes"]:
            table, payload = f'{change["schema"]}.{change["table"]}', change.get("payload")
            self.hold(table, change["pk"], json.dumps(payload), change["server_version"])
        end = 0 if page["has_more"] else min(page["window_until"], page["head"])
        self.set(cursor=max(page["next_after"], end), epoch=page["epoch"])

    def watch(self):
        while True:
            try:
                self.sync(wait=20)
            except OSError as error:  # away or busy
                if getattr(error, "code", 503) not in (408, 429, 500, 502, 503, 504):
                    raise
                wait = getattr(error, "headers", {}).get("Retry-After", "0")
                time.sleep(random.uniform(1, 3) + (int(wait) if wait.isdecimal() else 30))

def main(device, usage, path="", command="", *arguments):
    if command not in device.COMMANDS:
        sys.exit(usage)
    try:
        getattr(device(path), command)(*arguments)
    except (OSError, ValueError, TypeError, sqlite3.Error) as error:
        sys.exit(f"{error} {getattr(error, 'read', bytes)().decode()}")
    except KeyboardInterrupt:
        pass

if __name__ == "__main__":
    main(Device, __doc__, *sys.argv[1:])
