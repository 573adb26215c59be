//! What the tests of the whole system are made of.
//!
//! ```text
//!   model    what a read must answer, in closed form        rows     its input files
//!   cases    Parquet that pyarrow wrote, with what must come of it       python   the interpreter and scripts
//!   process  server processes: start, kill, stop            wait     for a condition, never for a while
//! ```

pub mod cases;
pub mod model;
pub mod process;
pub mod python;
pub mod rows;
pub mod wait;
