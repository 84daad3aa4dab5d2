#!/usr/bin/env python3
"""A device in one file: upload, long poll and apply over plain HTTP (PROTOCOL.md), with Python's standard library.

    http_client.py FILE signin http://127.0.0.1:8080 ann     (a server in development; or: token URL JWT)
    http_client.py FILE put business.users '{"name": "Ann"}' [UUID] | delete business.users UUID
    http_client.py FILE list business.users | lost | sync | watch

What the server has (table `row`) and local edits (`edit`) are kept apart, and the application sees one laid over the
other: no page ever meets an edit. In a conflict the server's row wins, and the edit is kept in `lost`.
"""
import base64, contextlib, http.client, json, random, sqlite3, sys, time, urllib.error, urllib.request, uuid
from urllib.parse import urlencode

SCHEMA = """PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value);
-- From a reset until the row is read again, its version is negative.
CREATE TABLE IF NOT EXISTS row (tbl, pk, version INTEGER, payload, PRIMARY KEY (tbl, pk));
-- id is the source change id, base the version that the edit was made on: neither changes once it may have been sent.
CREATE TABLE IF NOT EXISTS edit (id INTEGER PRIMARY KEY AUTOINCREMENT, tbl, pk, op, payload, base);
CREATE TABLE IF NOT EXISTS lost (id, tbl, pk, op, payload, why);"""

class Refused(Exception):
    """Not carried out: the HTTP status, the error's code, and how many seconds to wait."""

def text(payload, **options):
    return None if payload is None else json.dumps(payload, ensure_ascii=False, **options)

def reason(status):
    return (status.get("invalid") or {}).get("reason")

class Device:
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.db.executescript(SCHEMA)
    def get(self, name):
        return (self.db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone() or [None])[0]
    def set(self, **values):
        self.db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())
    @contextlib.contextmanager
    def transaction(self, **seen):
        """Only while the state is as this process has seen it: others may use the file, too."""
        with self.db:
            self.db.execute("BEGIN IMMEDIATE")
            if any(self.get(name) != value for name, value in seen.items()):
                raise Refused(409, "overtaken", 0)
            yield

    def request(self, path, body=None):
        headers = {"Authorization": f"Bearer {self.get('token')}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.get("server") + path, body and json.dumps(body).encode(), headers)
        try:
            try:
                with urllib.request.urlopen(request, timeout=90) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                code = json.load(error)["error"] if "json" in error.headers.get("Content-Type", "") else error.reason
                raise Refused(error.code, code, int(error.headers.get("Retry-After") or 0)) from None
        except (http.client.HTTPException, ValueError) as error:  # cut short: as good as no answer
            raise OSError(f"not a whole answer: {error!r}") from error

    def edit(self, table, pk, op, payload=None):
        """On top of an unsent edit of the row, or else of what the server has."""
        self.db.execute("INSERT INTO edit (tbl, pk, op, payload, base) SELECT :t, :k, :o, :p, coalesce("
                        "(SELECT base FROM edit WHERE tbl = :t AND pk = :k ORDER BY id LIMIT 1),"
                        "(SELECT abs(version) FROM row WHERE tbl = :t AND pk = :k), 0)",
                        {"t": table, "k": pk, "o": op, "p": payload})

    def rows(self, table):
        rows = dict(self.db.execute("SELECT pk, payload FROM row WHERE tbl = ?", (table,)))
        rows.update(self.db.execute("SELECT pk, payload FROM edit WHERE tbl = ? ORDER BY id", (table,)))
        return {pk: payload for pk, payload in sorted(rows.items()) if payload is not None}

    def upload(self):
        """All edits, in passes. One without its parent is put aside, and lost only after a pass that applied nothing:
        the parent may come later."""
        epoch, aside, applied = self.get("epoch"), {"all"}, True
        while aside:
            last, aside, applied = not applied, set(), False
            while edits := self.batch(epoch, aside):
                statuses = self.send(epoch, edits)
                with self.transaction(epoch=epoch, hydrated=1):
                    for edit, status in zip(edits, statuses, strict=True):
                        if reason(status) == "fk_missing" and not last:
                            aside.add(edit[1:3])
                        else:
                            self.settle(*edit, status)
                            applied |= status["status"] == "applied"

    def batch(self, epoch, aside):
        """The oldest edits, up to a second one of a row: its base is known when the first is settled."""
        batch = {}
        with self.transaction(epoch=epoch, hydrated=1):
            for edit in self.db.execute("SELECT * FROM edit ORDER BY id"):
                if edit[1:3] in batch or len(batch) == 100:
                    break
                if edit[1:3] not in aside:
                    batch[edit[1:3]] = edit
        return list(batch.values())

    def send(self, epoch, edits):
        """A status for each. Without an answer the same go again, under the same ids: the server knows them."""
        changes = [dict(zip(("schema", "table"), table.split(".")), source_change_id=id, op=op, pk=pk,
                        server_version=base, payload=payload and json.loads(payload))
                   for id, table, pk, op, payload, base in edits]
        try:
            statuses = self.request("/sync/upload", {"epoch": epoch, "changes": changes})["statuses"]
        except Refused as refused:
            if refused.args[0] != 413 and refused.args[1] != "invalid_request":
                raise
            statuses = [{"status": "invalid", "invalid": {"reason": "refused", "error": refused.args[1]}}] * len(edits)
        if len(edits) == 1 or reason(statuses[0]) not in ("refused", "batch_too_large"):
            return statuses
        half = len(edits) // 2
        return self.send(epoch, edits[:half]) + self.send(epoch, edits[half:])

    def settle(self, id, table, pk, op, payload, base, status):
        if not self.db.execute("SELECT 1 FROM edit WHERE id = ?", (id,)).fetchone():
            return  # another process was faster
        if status["status"] == "applied":
            if version := status.get("new_server_version", 0):  # none: a delete of a row that never was
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
            seen = {name: self.get(name) for name in ("cursor", "epoch", "hydrated")}
            query = {"after": seen["cursor"] or 0, "limit": 1000}
            query |= {"epoch": seen["epoch"]} if seen["epoch"] else {}
            query |= {"wait": wait} if seen["hydrated"] else {"include_self": "true"}  # its own old rows, too
            page = self.request("/sync/download?" + urlencode(query))
            if page["head"] < query["after"]:
                raise Refused(409, "epoch_mismatch", 0)
            more, wait = page["has_more"], 0
            with self.transaction(**seen):
                end = page["next_after"] if more else max(page["next_after"], min(page["window_until"], page["head"]))
                self.set(cursor=end, epoch=page["epoch"])
                for change in page["changes"]:
                    table = f'{change["schema"]}.{change["table"]}'
                    self.hold(table, change["pk"], change["server_version"], text(change.get("payload")))
                if not more and not seen["hydrated"]:
                    self.hydrated(page.get("highest_source_change_id") or 0)

    def hydrated(self, highest):
        """The first pass is complete: what it did not bring is not there."""
        if self.get("restored"):  # what this device has and the server lost is offered again
            self.db.execute("INSERT INTO edit (tbl, pk, op, payload) SELECT tbl, pk, 'INSERT', payload FROM row"
                            " WHERE version < 0 AND payload NOT NULL AND (tbl, pk) NOT IN (SELECT tbl, pk FROM edit)")
        self.db.execute("DELETE FROM row WHERE version < 0")
        self.db.execute("UPDATE edit SET base = 0 WHERE (tbl, pk) NOT IN (SELECT tbl, pk FROM row)")
        if self.get("restored") != 0:  # another history, or a new file: ids above all that this device has ever used
            used = self.db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
            self.db.execute("UPDATE edit SET id = id + ?", (max(used, highest),))
            self.db.execute("INSERT INTO edit (id) VALUES (?)", (used + max(used, highest) + 1,))  # and the next
            self.db.execute("DELETE FROM edit WHERE tbl IS NULL")
        self.set(hydrated=1, restored=0)

    def sync(self, wait=0):
        """Down first for a new file, up, down; all over again when the server's history is not what it was."""
        while True:
            epoch = self.get("epoch")
            try:
                self.get("hydrated") or self.download()
                self.upload()
                return self.download(wait)
            except Refused as refused:
                code = refused.args[1]
                if code not in ("overtaken", "epoch_mismatch", "history_pruned"):
                    raise
            time.sleep(random.random())  # two servers with different histories are not asked in a tight loop
            with self.transaction():
                if code != "overtaken" and self.get("epoch") == epoch:  # else another process has done it
                    self.db.execute("UPDATE row SET version = -abs(version)")
                    restored = 1 if code == "epoch_mismatch" else self.get("restored")
                    self.set(cursor=0, epoch=None, hydrated=0, restored=restored)

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
        case ("signin" | "token") as how, server, token:
            with device.transaction():
                device.set(server=server, device=device.get("device") or str(uuid.uuid4()))
                if how == "signin":
                    who = {"username": token, "password": "any", "device_id": device.get("device")}
                    token = device.request("/signin", who)["token"]
                _, claims, _ = token.split(".")
                user = json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"]
                if device.get("user") not in (None, user):
                    raise ValueError(f"this file belongs to {device.get('user')}: take another one for {user}")
                device.set(user=user, token=token)
        case "put", table, payload, *key:
            payload = text(json.loads(payload), allow_nan=False)
            device.edit(table, str(uuid.UUID(key[0]) if key else uuid.uuid4()), "UPDATE", payload)
        case "delete", table, key:
            device.edit(table, str(uuid.UUID(key)), "DELETE")
        case "list", table:
            for pk, payload in device.rows(table).items(): print(pk, payload)
        case ("lost",):
            for lost in device.db.execute("SELECT * FROM lost ORDER BY id"): print(*lost)
        case ("sync",): device.sync()
        case ("watch",): watch(device)
        case _: sys.exit(__doc__)

if __name__ == "__main__":
    try:
        main(*sys.argv[1:] or sys.exit(__doc__))
    except (Refused, OSError, ValueError) as error:
        sys.exit(f"http_client.py: {error}")
    except KeyboardInterrupt:
        pass
