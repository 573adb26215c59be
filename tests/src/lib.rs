//! What the tests of the whole system are made of.
//!
//! ```text
//!   model    what a read must answer, in closed form        rows     its input files
//!   cases    Parquet that pyarrow wrote, with what must come of it       python   the interpreter and scripts
//!   audit    readers' answers against the model; labels for ever; epochs never back
//!   cluster  a cluster in this process     reads    audited readers of it     control  the control API, for tests
//!   process  server processes: start, kill, stop            wait     for a condition, never for a while
//! ```

pub mod audit;
pub mod cases;
pub mod cluster;
pub mod control;
pub mod model;
pub mod process;
pub mod python;
pub mod reads;
pub mod rows;
pub mod wait;
