//! All integration tests, one binary.

// ------------------------------------------------------------------ the server
// PROTOCOL.md sections 1-5 over plain HTTP, rule by rule; the cases are in
// tests/src/conformance.
mod conformance;
