//! The state machine: every transaction by itself, and random sequences of all of them.

mod invariants;
mod module;
mod transactions;
mod world;
