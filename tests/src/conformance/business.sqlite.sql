-- The business tables of the conformance suite's section 5, for a server on the
-- embedded store. A taken label and an empty title make a projection fail.
CREATE TABLE books (
    id    TEXT PRIMARY KEY NOT NULL,
    title TEXT NOT NULL CHECK (title <> ''),
    label TEXT UNIQUE,
    pages INTEGER
);

CREATE TABLE chapters (
    id      TEXT PRIMARY KEY NOT NULL,
    book_id TEXT REFERENCES books (id),
    title   TEXT NOT NULL
);

-- A book called 'kept' cannot be deleted.
CREATE TRIGGER keep BEFORE DELETE ON books WHEN old.title = 'kept'
BEGIN
    SELECT raise(ABORT, 'kept');
END;
