#!/usr/bin/env python3
"""http_client.py, which also goes on where that stops: after a restored server, pruned history, or a file put back.

    http_device.py FILE signin http://127.0.0.1:8080 ann     (a server in development; or: token URL JWT)
    http_device.py FILE put business.users '{"name": "Ann"}' [UUID] | delete business.users UUID
    http_device.py FILE list business.users | lost | sync | watch

It then reads everything again, beside the rows that the application goes on to see, and compares at the end: what it
has and the server lost is offered again. A child may also be sent before its parent.
"""
import sys
sys.dont_write_bytecode = True
import contextlib, http_client, random, time, uuid
from http_client import Refused, reason

SCHEMA = """-- All states of all rows, while everything is read again.
CREATE TABLE IF NOT EXISTS fresh (tbl, pk, version INTEGER, payload, PRIMARY KEY (tbl, pk, version));
-- A file that the small client has used needs no first pass.
INSERT OR IGNORE INTO state SELECT 'hydrated', EXISTS (SELECT 1 FROM state WHERE name = 'cursor');
-- Of an earlier version, which did not read beside the rows.
UPDATE row SET version = abs(version) WHERE version < 0;
UPDATE state SET value = 0 WHERE name = 'cursor' AND (SELECT value FROM state WHERE name = 'hydrated') = 0
    AND NOT EXISTS (SELECT 1 FROM fresh);"""

# What this file has of a row, where the server's new history has another state under the same version.
DIVERGED = "row JOIN fresh USING (tbl, pk, version) WHERE row.payload IS NOT fresh.payload"
# Without an edit, and newer than what the server has: it lost that.
OFFER = """INSERT INTO edit (tbl, pk, op, payload, base)
    SELECT tbl, pk, iif(row.payload IS NULL, 'DELETE', 'UPDATE'), row.payload, coalesce(now.version, 0)
    FROM row LEFT JOIN (SELECT tbl, pk, max(version) AS version, payload FROM fresh GROUP BY tbl, pk) AS now
    USING (tbl, pk)
    WHERE row.version > coalesce(now.version, 0) AND row.payload IS NOT now.payload
        AND (tbl, pk) NOT IN (SELECT tbl, pk FROM edit)"""

class Device(http_client.Device):
    def __init__(self, path):
        super().__init__(path)
        self.db.executescript(SCHEMA)
    @contextlib.contextmanager
    def transaction(self, **seen):
        """Only while the state is as this process has seen it: others may use the file, too."""
        with super().transaction():
            if any(self.get(name) != value for name, value in seen.items()):
                raise Refused(409, "overtaken", 0)
            yield

    def upload(self):
        """All edits, in passes. One without its parent is put aside, and lost only after a pass that applied nothing:
        the parent may come later."""
        epoch, aside, applied = self.get("epoch"), {"all"}, True
        while aside:
            last, aside, applied = not applied, set(), False
            while True:
                with self.transaction(epoch=epoch, hydrated=1):
                    edits = self.batch(aside)
                if not edits:
                    break
                statuses = self.send(epoch, edits)
                with self.transaction(epoch=epoch, hydrated=1):
                    for edit, status in zip(edits, statuses, strict=True):
                        if reason(status) == "fk_missing" and not last:
                            aside.add(edit[1:3])
                        else:
                            self.settle(*edit, status)
                            applied |= status["status"] == "applied"

    def download(self, wait=0):
        more = True
        while more:
            seen = {name: self.get(name) for name in ("cursor", "epoch", "hydrated")}
            query = {"wait": wait} if seen["hydrated"] else {"include_self": "true"}  # its own old rows, too
            page = self.page(seen["cursor"] or 0, seen["epoch"], **query)
            if seen["hydrated"] and self.is_behind(page):
                raise Refused(409, "put_back", 0)
            more, wait = page["has_more"], 0
            with self.transaction(**seen):
                self.take(page, self.hold if seen["hydrated"] else self.note)
                if not more and not seen["hydrated"]:
                    self.hydrated(page.get("highest_source_change_id") or 0)

    def note(self, *state):
        self.db.execute("INSERT OR REPLACE INTO fresh VALUES (?, ?, ?, ?)", state)

    def hydrated(self, highest):
        """Everything has been read: what it did not bring is not there."""
        if self.get("again") == "epoch_mismatch":
            self.db.execute(f"INSERT INTO lost SELECT NULL, tbl, pk, 'UPDATE', row.payload, 'restored' FROM {DIVERGED}"
                            " AND row.payload NOT NULL")
            self.db.execute(f"UPDATE edit SET base = 0 WHERE (tbl, pk) IN (SELECT tbl, pk FROM {DIVERGED})")
            self.db.execute(OFFER)
        self.db.execute("DELETE FROM row")
        self.db.execute("INSERT INTO row SELECT tbl, pk, max(version), payload FROM fresh GROUP BY tbl, pk")
        self.db.execute("DELETE FROM fresh")
        self.db.execute("UPDATE edit SET base = 0 WHERE (tbl, pk) NOT IN (SELECT tbl, pk FROM row)")
        if self.get("again") != "history_pruned" or highest > (self.get("sent") or 0):  # ids above all that were ever used under this device's name
            used, = self.db.execute("SELECT max(coalesce(max(seq), 0), ?) FROM sqlite_sequence", (highest,)).fetchone()
            first, = self.db.execute("SELECT min(id) FROM edit").fetchone()
            self.db.execute("UPDATE edit SET id = id + 1 + ? - ?", (used, first))
            # And those of edits to come.
            self.db.execute("INSERT INTO edit (id) SELECT max(?, coalesce(max(id), 0)) + 1 FROM edit", (used,))
            self.db.execute("DELETE FROM edit WHERE tbl IS NULL")
            self.set(sent=used)
        self.set(hydrated=1)

    def sync(self, wait=0):
        """Down before up; all over again when the server's history is not what it was, or this file's."""
        while True:
            epoch = self.get("epoch")
            try:
                return super().sync(wait)
            except Refused as refused:
                code = refused.args[1]
                if code not in ("overtaken", "epoch_mismatch", "history_pruned", "put_back"):
                    raise
            time.sleep(random.random())  # two servers with different histories are not asked in a tight loop
            with self.transaction():
                if code != "overtaken" and self.get("epoch") == epoch:  # else another process has done it
                    again = self.get("again") if code == "history_pruned" and not self.get("hydrated") else code
                    self.db.execute("DELETE FROM fresh")
                    self.set(cursor=0, epoch=None, hydrated=0, again=again)

    def run(self, *command):
        match command:
            case "signin", server, name:
                self.set(device=self.get("device") or str(uuid.uuid4()))
                who = {"username": name, "password": "any", "device_id": self.get("device")}
                super().run("token", server, self.request("/signin", who, server)["token"])
            case _: super().run(*command)

if __name__ == "__main__":
    http_client.main(Device, *sys.argv[1:])
