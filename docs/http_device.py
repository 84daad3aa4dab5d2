#!/usr/bin/env python3
"""http_client.py, which also goes on where that stops: after a restored server, pruned history, or a file put back.

    http_device.py FILE signin http://127.0.0.1:8080 ann     (a server in development; or: token URL JWT)
    http_device.py FILE put business.users '{"name": "Ann"}' [UUID] | delete business.users UUID
    http_device.py FILE list business.users | lost | sync | watch

It then reads everything again, beside the rows that the application goes on to see, and compares at the end: what it
has and the server lost is offered again. It sends many edits at once, and a child may be sent before its parent.
"""
import sys
sys.dont_write_bytecode = True
import contextlib, http_client, json, random, re, sqlite3, time, urllib.error, urllib.request, uuid

SCHEMA = """-- All states of all rows, while everything is read again.
CREATE TABLE IF NOT EXISTS fresh (tbl, pk, payload, version, PRIMARY KEY (tbl, pk, version));"""

# What this file has of a row, where the server's new history has another state under the same version.
DIVERGED = "row JOIN fresh USING (tbl, pk, version) WHERE row.payload <> fresh.payload"
# Without an edit, and newer than what the server has: it lost that.
OFFER = """INSERT INTO edit (tbl, pk, payload, base)
    SELECT tbl, pk, row.payload, coalesce(now.version, 0)
    FROM row LEFT JOIN (SELECT tbl, pk, max(version) AS version, payload FROM fresh GROUP BY tbl, pk) AS now
    USING (tbl, pk)
    WHERE row.version > coalesce(now.version, 0) AND row.payload <> coalesce(now.payload, 'null')
        AND (tbl, pk) NOT IN (SELECT tbl, pk FROM edit)"""
BATCH = 100

class Again(Exception):
    """Why everything is to be read again; or "overtaken": another process has begun to."""

class Database(sqlite3.Connection):
    """Its transactions begin only while the state is as this process has seen it: others may use the file, too."""
    seen = {}
    def __enter__(self):
        self.execute("BEGIN IMMEDIATE")
        state = dict(self.execute("SELECT name, value FROM state"))
        if any(state.get(name) != value for name, value in self.seen.items()):
            self.rollback()
            raise Again("overtaken")

def reason(status):
    return (status.get("invalid") or {}).get("reason")

class Device(http_client.Device):
    COMMANDS = http_client.Device.COMMANDS + ["signin", "delete", "lost"]
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30, factory=Database)
        self.db.executescript(http_client.SCHEMA + SCHEMA)

    def signin(self, server, name):
        with self.db:
            self.set(device=self.state().get("device") or str(uuid.uuid4()))
        who = json.dumps({"username": name, "password": "any", "device_id": self.state()["device"]}).encode()
        request = urllib.request.Request(server + "/signin", who, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            self.token(server, json.load(reply)["token"])

    def put(self, table, payload, pk=None):
        def refuse(constant):
            raise ValueError(f"JSON has no {constant}")
        if not isinstance(json.loads(payload, parse_constant=refuse), dict | None):
            raise ValueError("the payload must be an object, or null to delete the row")
        if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", table):
            raise ValueError(f"{table}: must be schema.table, in lower-case letters, digits and underscores")
        super().put(table, payload, pk)

    def delete(self, table, pk):
        super().put(table, "null", pk)

    def lost(self):
        for lost in self.db.execute("SELECT * FROM lost ORDER BY id"):
            print(*lost)

    def request(self, path, body=None):
        seen, is_page = self.db.seen, path.startswith("/sync/download")
        is_first_pass = is_page and not seen["hydrated"]
        try:
            answer = super().request(path + ("&include_self=true" if is_first_pass else ""), body)
        except urllib.error.HTTPError as error:
            if error.code in (409, 410):
                error.msg = error.read().decode(errors="replace")
                with contextlib.suppress(ValueError, LookupError, TypeError):  # something in between has no code
                    if (code := json.loads(error.msg)["error"]) in ("epoch_mismatch", "history_pruned"):
                        raise Again(code) from error
            raise
        if is_page and answer["head"] < (seen["cursor"] or 0):
            raise Again("epoch_mismatch")
        if is_first_pass:  # its own old rows, too
            self.highest = answer.pop("highest_source_change_id", 0)
        elif is_page and answer.get("highest_source_change_id", 0) > self.state().get("sent", 0):
            raise Again("put_back")
        return answer

    def upload(self):
        """All edits, in passes. One without its parent is put aside, and lost only after a pass that applied nothing:
        the parent may come later."""
        self.db.seen = {"epoch": self.state()["epoch"], "hydrated": 1}
        aside, applied, size = {"all"}, True, BATCH
        while aside:
            last, aside, applied = not applied, set(), False
            while edits := self.batch(aside, size):
                statuses = self.send(edits)
                whole = statuses[0]["status"] == "invalid" and reason(statuses[0]) in (None, "batch_too_large")
                if whole and len(edits) > 1:
                    size = len(edits) // 2  # until the one that it cannot take is alone
                    continue
                with self.db:
                    for edit, status in zip(edits, statuses, strict=True):
                        if reason(status) == "fk_missing" and not last:
                            aside.add(edit[1:3])
                        else:
                            self.settle(*edit, status)
                            applied |= status["status"] == "applied"
                size = min(size * 2, BATCH)

    def batch(self, aside, size):
        """The oldest edits, up to a second one of a row: its base is known when the first is settled."""
        batch = {}
        with self.db:
            for edit in self.db.execute("SELECT * FROM edit ORDER BY id"):
                if edit[1:3] in batch or len(batch) == size:
                    break
                if edit[1:3] not in aside:
                    batch[edit[1:3]] = edit
        return list(batch.values())

    def download(self, wait=0):
        self.db.seen = {}
        with self.db:
            if "hydrated" not in self.state():  # a file that the small client has used needs no first pass
                self.set(hydrated=int("cursor" in self.state()))
        state = self.state()
        self.db.seen = {name: state.get(name) for name in ("cursor", "epoch", "hydrated")}
        return super().download(wait if state["hydrated"] else 0)

    def hold(self, *row):
        if self.db.seen["hydrated"]:
            return super().hold(*row)
        self.db.execute("INSERT OR REPLACE INTO fresh VALUES (?, ?, ?, ?)", row)

    def apply(self, page):
        super().apply(page)
        if not self.db.seen["hydrated"] and not page["has_more"]:
            self.hydrated(self.highest)

    def hydrated(self, highest):
        """Everything has been read: what it did not bring is not there."""
        again = self.state().get("again")
        if again == "epoch_mismatch":
            self.db.execute(f"INSERT INTO lost SELECT NULL, tbl, pk, row.payload, 'restored' FROM {DIVERGED}"
                            " AND row.payload <> 'null'")
            # An edit stands on the state that it was made on, or on nothing.
            self.db.execute("UPDATE edit SET base = 0 WHERE (tbl, pk, base) NOT IN (SELECT tbl, pk, version FROM row"
                            " JOIN fresh USING (tbl, pk, version) WHERE row.payload = fresh.payload)")
            self.db.execute(OFFER)
        self.db.execute("DELETE FROM row")
        self.db.execute("INSERT INTO row SELECT tbl, pk, payload, max(version) FROM fresh GROUP BY tbl, pk")
        self.db.execute("DELETE FROM fresh")
        self.db.execute("UPDATE edit SET base = 0 WHERE (tbl, pk) NOT IN (SELECT tbl, pk FROM row)")
        if again != "history_pruned" or highest > self.state().get("sent", 0):
            # Ids above all that were ever used under this device's name …
            used, = self.db.execute("SELECT max(coalesce(max(seq), 0), ?) FROM sqlite_sequence", (highest,)).fetchone()
            first, = self.db.execute("SELECT min(id) FROM edit").fetchone()
            self.db.execute("UPDATE edit SET id = id + 1 + ? - ?", (used, first))
            # … and those of edits to come.
            self.db.execute("INSERT INTO edit (id) SELECT max(?, coalesce(max(id), 0)) + 1 FROM edit", (used,))
            self.db.execute("DELETE FROM edit WHERE tbl IS NULL")
            self.set(sent=used)
        self.set(hydrated=1)

    def sync(self, wait=0):
        """Down before up; all over again when the server's history is not what it was, or this file's."""
        while True:
            epoch = self.state().get("epoch")
            try:
                return super().sync(wait)
            except Again as again:
                code, = again.args
            time.sleep(random.random())  # two servers with different histories are not asked in a tight loop
            self.db.seen = {}
            with self.db:
                state = self.state()
                if code != "overtaken" and state.get("epoch") == epoch:  # else another process has done it
                    again = state.get("again") if code == "history_pruned" and not state["hydrated"] else code
                    self.db.execute("DELETE FROM fresh")
                    self.set(cursor=0, epoch="", hydrated=0, again=again)

if __name__ == "__main__":
    http_client.main(Device, __doc__, *sys.argv[1:])
