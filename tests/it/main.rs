//! One executable for all tests that need a server or read the workspace: it links the engine's crates once.

mod bad_input;
mod bench;
mod clients;
mod cluster;
mod codec;
mod differential;
mod explain;
mod mysql;
mod suites;
mod tidy;
mod tpch;
