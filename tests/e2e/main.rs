//! End to end: whole clusters, real files, real processes.

mod bad_input;
mod budget;
mod consistency;
mod faults;
mod inputs;
mod processes;
mod python_client;
mod tables;
mod workers;
