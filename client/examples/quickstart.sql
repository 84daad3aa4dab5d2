-- The tables of the examples. Keys are UUIDs; `author_id` refers to a user.
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    email TEXT
);
CREATE TABLE IF NOT EXISTS posts (
    id TEXT PRIMARY KEY NOT NULL,
    title TEXT NOT NULL,
    content TEXT,
    author_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE
);
-- A foreign key without an index makes every delete of a parent scan the children.
CREATE INDEX IF NOT EXISTS posts_author ON posts (author_id);
