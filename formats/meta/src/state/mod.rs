//! What may follow what: pure functions from records to records, or to the reason why not.
//!
//! ```text
//!   task    Queued ─▶ Running ─▶ Aligning ─▶ Finished
//!              ▲  ╲       │ ╲        ╲
//!              │   ▼      ▼  ▼        ▼
//!              │ Skipped  Cancelled  Failed ─▶ Skipped
//!              └───────── retry ───────┘
//!
//!   table   Normal ── rollback, failed alignment ─▶ RolledBack ── release ─▶ Normal
//!                                                    └─ rollback ─┘
//!   sect    Joining ─▶ Active ◀─▶ Shielded ─▶ Retired (from any)
//! ```

pub(crate) mod budget;
mod standing;
pub(crate) mod table;
pub(crate) mod task;

pub(crate) use standing::lack;
pub use standing::{Lack, Standing};
pub use table::is_quarantined;
pub use task::{NextTask, next_task};
