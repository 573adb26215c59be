//! Text files ─▶ rows.
//!
//! ```text
//!   file ─ fetch ─▶ (expand) ─ split ─▶ blocks of whole records ─ decode ─▶ rows
//!          in order, one file after the other                    in parallel
//!
//!   layout   the beginning of a file: compression, header, where the columns are
//!   split    where records end; their numbers
//!   fields   separated values: records and their fields
//!   json     JSON lines: objects and their members
//!   cell     what a row holds for each role of the load
//!   number   integers and floats from text
//!   vector   a vector in one cell
//!   append   cells ─▶ rows
//!   decode   a block ─▶ rows and bad rows
//!   count    rows known by their byte ─▶ their numbers
//! ```

pub(crate) mod append;
pub(crate) mod cell;
pub(crate) mod count;
pub(crate) mod decode;
pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod layout;
pub(crate) mod number;
pub(crate) mod split;
pub(crate) mod vector;
