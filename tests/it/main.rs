//! All integration tests, one binary. They need a PostgreSQL server:
//! `tests/with-postgres cargo test -p oversync-tests`.

// ------------------------------------------------------------- what it answers
// PROTOCOL.md sections 1-5 over plain HTTP, rule by rule; the cases are in
// tests/src/conformance.
mod conformance;
// Rows in business tables: the upload's own transaction, scoped to the user,
// failures recorded and retried.
mod projection;
// The storage contract: one story, told to every store without a server.
mod stores;
// Bodies, queries, tokens and frames made by mutation: never a 5xx, never a panic.
mod hostile;
// Answers are bounded as bodies are.
mod bounds;

// ---------------------------------------------------------- what it never loses
// Many writers and a reader that never rests: every change once, in order.
mod stream;
// Two processes on one database: what one has cached, the other has overtaken.
mod processes;
// SIGKILL and SIGTERM in the middle of uploads.
mod crash;
// `oversync verify`: silent beside busy servers, and every kind of planted damage
// is found and named.
mod verify;

// ---------------------------------------------------------------- what it tells
// WebSocket hints: hello, changes, bye, and who may not connect.
mod hints;
// Long poll: the HTTP-only client's way to be prompt.
mod long_poll;

// ------------------------------------------------------------- how it is started
// Settings, their mistakes, and the command line.
mod settings;
// Tokens: algorithms, key files and sets, rotation, audience and issuer.
mod auth;

// ----------------------------------------------------------------- the devices
// Real clients against real servers: hints instead of polls, kill -9 on either
// side, a server that goes away and comes back.
mod devices;
// One row on two devices: merged by field, what loses is kept, what is refused can
// be tried again.
mod merging;
// WebSocket, long poll, polling; pauses; two clients on one file.
mod ways;
// The server is killed again and again; the devices converge all the same.
mod outages;
// The programs people try first: the command line, the examples.
mod programs;
// The command line when something is in the way: conflicts, refusals, two
// processes on one file, signing out, no server.
mod commands;

// --------------------------------------------------------------- how it is built
// The rules of the house that a machine can check.
mod tidy;
