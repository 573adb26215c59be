//! What the control API answers, as stable JSON and as text.
//!
//! Names and units of the JSON follow the messages of `control.proto`; what is not set is `null`.

mod cluster;
mod table;
mod task;
mod version;

pub(crate) use cluster::ClusterView;
pub(crate) use table::{LabelView, TableView, write_tables};
pub(crate) use task::{TaskView, write_tasks};
pub(crate) use version::{VersionView, write_versions};

/// `None` for 0, which stands for "none" in the control API.
fn some(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

/// The first 12 digits of a content id, for people.
fn short(content_id: &str) -> &str {
    content_id.get(..12).unwrap_or(content_id)
}
