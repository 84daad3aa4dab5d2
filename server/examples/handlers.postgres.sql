-- The tables of examples/handlers.rs, on PostgreSQL.
CREATE SCHEMA IF NOT EXISTS app;

CREATE TABLE IF NOT EXISTS app.accounts (
    id       uuid PRIMARY KEY,
    owner_id text NOT NULL,
    name     text
);

-- Two users may have entries with the same key.
CREATE TABLE IF NOT EXISTS app.ledger (
    owner_id   text NOT NULL,
    id         uuid NOT NULL,
    account_id uuid REFERENCES app.accounts (id),
    cents      bigint NOT NULL,
    PRIMARY KEY (owner_id, id)
);
