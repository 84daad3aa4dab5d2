-- The business tables of examples/embed.rs, on PostgreSQL.
CREATE SCHEMA IF NOT EXISTS business;

CREATE TABLE IF NOT EXISTS business.users (
    id       uuid PRIMARY KEY,
    owner_id text NOT NULL,
    name     text NOT NULL,
    email    text
);

CREATE TABLE IF NOT EXISTS business.posts (
    id        uuid PRIMARY KEY,
    owner_id  text NOT NULL,
    title     text NOT NULL,
    content   text,
    author_id uuid REFERENCES business.users (id) DEFERRABLE INITIALLY DEFERRED
);
