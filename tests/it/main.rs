//! All integration tests, one binary. They need a PostgreSQL server:
//! `tests/with-postgres cargo test -p oversync-tests`.

// ------------------------------------------------------------- what it answers
// PROTOCOL.md sections 1-5 over plain HTTP, rule by rule; the cases are in
// tests/src/conformance.
mod conformance;
// Rows in business tables: the upload's own transaction, scoped to the user,
// failures recorded and retried.
mod projection;
// Rows that a host's own handler writes.
mod handlers;
// Foreign keys of PostgreSQL: made to wait at start, never a reason for an upload
// to fail.
mod constraints;
// References to lookup tables and to columns that are not keys; the modes.
mod references;
// The failure list under load, and retries that meet others.
mod failures;
// The OpenAPI document and the routes: the one as the other.
mod openapi;
// The storage contract: one story, told to every store without a server.
mod stores;
// Bodies, queries, tokens and frames made by mutation: never a 5xx, never a panic.
mod hostile;
// Answers are bounded as bodies are.
mod bounds;

// Everything one user can observe is the same whether another exists or not.
mod isolation;

// ---------------------------------------------------------- what it never loses
// Many writers and a reader that never rests: every change once, in order.
mod stream;
// The server as a writer, beside devices and other processes.
mod writer;
// The same without HTTP, as a host application uses it.
mod library;
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
// The operators' listener: its own token, and what it counts.
mod admin;
// Devices that may not come in any more: refused at every process, and told.
mod revocation;
// Tokens: algorithms, key files and sets, rotation, audience and issuer.
mod auth;

// ----------------------------------------------------------------- the devices
// Real clients against real servers: hints instead of polls, kill -9 on either
// side, a server that goes away and comes back.
mod devices;
// kill -9 of a device process at every named step of upload and apply.
mod killed;
// The first pass over a large account: how far it is, and going on after a kill.
mod first_pass;
// One row of every kind that can never succeed, among a thousand that can.
mod poison;
// An application's life, from the first install to the next user.
mod life;
// One row on two devices: merged by field, what loses is kept, what is refused can
// be tried again.
mod merging;
// WebSocket, long poll, polling; pauses; two clients on one file.
mod ways;
// The server is killed again and again; the devices converge all the same.
mod outages;
// The programs people try first: the command line, the examples.
mod programs;
// The HTTP-only client of the documentation, beside the real one.
mod http_client;
// The two-pane page of `serve --dev`, in headless Chromium.
mod demo;
// The command line when something is in the way: conflicts, refusals, two
// processes on one file, signing out, no server.
mod commands;

// --------------------------------------------------------------- how it is built
// The rules of the house that a machine can check.
mod tidy;
