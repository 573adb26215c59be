//! From input files to rows.
//!
//! ```text
//!   source   which URLs a task may name, and the store behind each
//!   file     one file of the frozen input list
//!   open     files of a load, with their columns found
//!   unit     the pieces of files that can be read by themselves
//!   footer   the tail of a Parquet file ─▶ its row groups and columns
//!   bind     the columns a load names ─▶ what to decode and how (or which column is wrong)
//!   chunks   the column chunks of one row group in memory, as the Parquet decoder reads them
//!   decode   one row group ─▶ record batches ─▶ rows (keys, stored values, expiry, order)
//!   floats   numeric columns ─▶ f32
//!   read     units, several at once ─▶ runs
//!   bad      rows that cannot be used: counted, sampled
//! ```

pub(crate) mod bad;
pub(crate) mod bind;
pub(crate) mod chunks;
pub(crate) mod decode;
pub(crate) mod error;
pub(crate) mod file;
pub(crate) mod floats;
pub(crate) mod footer;
pub(crate) mod open;
pub(crate) mod read;
pub(crate) mod source;
pub(crate) mod unit;
