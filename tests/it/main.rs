//! All integration tests, one binary. They need a PostgreSQL server:
//! `tests/with-postgres cargo test -p oversync-tests`.

// ------------------------------------------------------------- what it answers
// PROTOCOL.md sections 1-5 over plain HTTP, rule by rule; the cases are in
// tests/src/conformance.
mod conformance;
// The storage contract: one story, told to every store without a server.
mod stores;
// Bodies, queries, tokens and frames made by mutation: never a 5xx, never a panic.
mod hostile;

// ---------------------------------------------------------- what it never loses
// Many writers and a reader that never rests: every change once, in order.
mod stream;
// Two processes on one database: what one has cached, the other has overtaken.
mod processes;
// SIGKILL and SIGTERM in the middle of uploads.
mod crash;

// ---------------------------------------------------------------- what it tells
// WebSocket hints: hello, changes, bye, and who may not connect.
mod hints;
// Long poll: the HTTP-only client's way to be prompt.
mod long_poll;

// --------------------------------------------------------------- with devices
// Real clients on real SQLite files, with the server away, killed, restarted.
mod devices;

// ------------------------------------------------------------- how it is started
// Settings, their mistakes, and the command line.
mod settings;

// --------------------------------------------------------------- how it is built
// The rules of the house that a machine can check.
mod tidy;
