#!/usr/bin/env python3
"""Upload, long poll and apply in 200 lines of Python's standard library (PROTOCOL.md).

    http_client.py FILE token http://127.0.0.1:8080 JWT      (a device name of its own for every file)
    http_client.py FILE put business.users '{"name": "Ann"}' [UUID] | delete business.users UUID
    http_client.py FILE list business.users | lost | sync | watch

What the server has (`row`) and local edits (`edit`) are kept apart; the application sees one laid over the other. In a
conflict the server's row wins, and the edit is kept in `lost`. Where the server was restored from a backup, the device
was away for so long that history was pruned, or its name was used before, it stops and keeps all; http_device.py
beside it goes on there.
"""
import __main__, base64, contextlib, http.client, json, random, sqlite3, sys, time, urllib.error, urllib.request, uuid
from urllib.parse import urlencode

SCHEMA = """PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS row (tbl, pk, version INTEGER, payload, PRIMARY KEY (tbl, pk));
-- id is the source change id, base the version that the edit was made on: neither changes once it may have been sent.
CREATE TABLE IF NOT EXISTS edit (id INTEGER PRIMARY KEY AUTOINCREMENT, tbl, pk, op, payload, base);
CREATE TABLE IF NOT EXISTS lost (id, tbl, pk, op, payload, why);"""

class Refused(Exception):
    """The HTTP status, the error's code, and how many seconds to wait."""

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
    def transaction(self):
        with self.db:
            self.db.execute("BEGIN IMMEDIATE")
            yield

    def request(self, path, body=None, server=None):
        headers = {"Authorization": f"Bearer {self.get('token')}", "Content-Type": "application/json"}
        url = (server or self.get("server")) + path
        request = urllib.request.Request(url, body and json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            try:
                code = json.load(error)["error"]
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):  # from something in between
                code = error.reason
            wait = error.headers.get("Retry-After") or "0"
            raise Refused(error.code, code, int(wait) if wait.isdecimal() else 30) from None
        except (http.client.HTTPException, ValueError) as error:  # cut short: as good as no answer
            raise OSError(f"not a whole answer: {error!r}") from error

    def edit(self, table, pk, op, payload=None):
        """On top of an unsent edit of the row, or else of what the server has."""
        self.db.execute("INSERT INTO edit (tbl, pk, op, payload, base) SELECT :t, :k, :o, :p, coalesce("
                        "(SELECT base FROM edit WHERE tbl = :t AND pk = :k ORDER BY id LIMIT 1),"
                        "(SELECT version FROM row WHERE tbl = :t AND pk = :k), 0)",
                        {"t": table, "k": pk, "o": op, "p": payload})

    def rows(self, table):
        rows = dict(self.db.execute("SELECT pk, payload FROM row WHERE tbl = ?", (table,)))
        rows.update(self.db.execute("SELECT pk, payload FROM edit WHERE tbl = ? ORDER BY id", (table,)))
        return {pk: payload for pk, payload in sorted(rows.items()) if payload is not None}

    def upload(self):
        while edits := self.batch():
            statuses = self.send(self.get("epoch"), edits)
            with self.transaction():
                for edit, status in zip(edits, statuses, strict=True):
                    self.settle(*edit, status)

    def batch(self, aside=()):
        """The oldest edits, up to a second one of a row: its base is known when the first is settled."""
        batch = {}
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
        self.db.execute("INSERT INTO state VALUES ('sent', ?) ON CONFLICT DO UPDATE SET"
                        " value = max(value, excluded.value)", (edits[-1][0],))  # what the server may have seen
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
        self.db.execute("INSERT INTO lost SELECT id, tbl, pk, op, payload, ? FROM edit WHERE tbl = ? AND pk = ?",
                        (status["status"] if row else json.dumps(status["invalid"]), table, pk))
        self.db.execute("DELETE FROM edit WHERE tbl = ? AND pk = ?", (table, pk))

    def hold(self, table, pk, version, payload):
        """Takes a state of a row, unless a newer one is here already."""
        self.db.execute("INSERT INTO row VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version,"
                        " payload = excluded.payload WHERE excluded.version > version", (table, pk, version, payload))

    def download(self, wait=0):
        """All there is, each page and the cursor in one transaction; waits up to `wait` seconds for the first."""
        more = True
        while more:
            page = self.page(self.get("cursor") or 0, self.get("epoch"), wait=wait)
            if self.is_behind(page):
                raise Refused(409, "not the file that the server knows: http_device.py can go on", 0)
            more, wait = page["has_more"], 0
            with self.transaction():
                self.take(page, self.hold)

    def page(self, after, epoch, **query):
        query |= {"after": after, "limit": 1000} | ({"epoch": epoch} if epoch else {})
        page = self.request("/sync/download?" + urlencode(query))
        if page["head"] < after:
            raise Refused(409, "epoch_mismatch", 0)
        return page

    def is_behind(self, page):
        """The server knows a change of this device that this file does not: it is a copy, or was put back."""
        return (page.get("highest_source_change_id") or 0) > (self.get("sent") or 0)

    def take(self, page, keep):
        for change in page["changes"]:
            table = f'{change["schema"]}.{change["table"]}'
            keep(table, change["pk"], change["server_version"], text(change.get("payload")))
        end = 0 if page["has_more"] else min(page["window_until"], page["head"])
        self.set(cursor=max(page["next_after"], end), epoch=page["epoch"])

    def sync(self, wait=0):
        self.download()
        self.upload()
        self.download(wait)

    def watch(self, pause=1):
        while True:
            try:
                self.sync(wait=20)
                pause = 1
            except (Refused, OSError) as error:  # away or busy: later, and never before the server said
                status, _, wait = error.args if isinstance(error, Refused) else (503, "", 0)
                if status not in (408, 429, 500, 502, 503, 504):
                    raise
                print(f"later: {error}", file=sys.stderr, flush=True)
                time.sleep(wait + random.uniform(0, pause))
                pause = min(pause * 2, 60)

    def run(self, *command):
        match command:
            case "token", server, token:
                user = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["sub"]
                if self.get("user") not in (None, user):
                    raise ValueError(f"this file belongs to {self.get('user')}: take another one for {user}")
                with self.transaction():
                    self.set(server=server, user=user, token=token)
            case "put", table, payload, *key:
                payload = text(json.loads(payload), allow_nan=False)
                self.edit(table, str(uuid.UUID(key[0]) if key else uuid.uuid4()), "UPDATE", payload)
            case "delete", table, key: self.edit(table, str(uuid.UUID(key)), "DELETE")
            case "list", table:
                for pk, payload in self.rows(table).items(): print(pk, payload)
            case ("lost",):
                for lost in self.db.execute("SELECT * FROM lost ORDER BY id"): print(*lost)
            case ("sync",): self.sync()
            case ("watch",): self.watch()
            case _: sys.exit(__main__.__doc__)

def main(device, path=None, *command):
    try:
        device(path).run(*command) if command else sys.exit(__main__.__doc__)
    except (Refused, OSError, ValueError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    except KeyboardInterrupt:
        pass

if __name__ == "__main__":
    main(Device, *sys.argv[1:])
