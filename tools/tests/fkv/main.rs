//! Tests of the real `fkv` binary.

mod crash;
mod demo;
mod harness;
mod inspect;
mod refusals;
mod tour;
