//! From input files to rows.
//!
//! ```text
//!   source   which URLs a task may name, and the store behind each
//!   file     one file of the frozen input list
//!   sniff    what a file looks like that is not what it should be
//!   open     files of a load, with their columns found
//!   unit     the pieces of files that can be read by themselves
//!   read     units ─▶ work in frozen order ─▶ runs, several at once
//!   ends     what can only be said of files when all of them has been read
//!
//!   Parquet
//!     footer   the tail of a file ─▶ its row groups and columns
//!     bind     the columns a load names ─▶ what to decode and how (or which column is wrong)
//!     chunks   the column chunks of one row group in memory, as the decoder reads them
//!     decode   one row group ─▶ record batches ─▶ rows (keys, stored values, expiry, order)
//!     floats   numeric columns ─▶ f32
//!   text
//!     inflate  gzip and zstd around whole files, with caps
//!     stream   one unit ─▶ blocks of whole records
//!     lineup   many streams at once, their blocks in frozen order
//!     text     header, records, fields, cells ─▶ rows
//!
//!   bad      rows that cannot be used: counted, sampled
//! ```

pub(crate) mod bad;
pub(crate) mod bind;
pub(crate) mod chunks;
pub(crate) mod decode;
pub(crate) mod ends;
pub(crate) mod error;
pub(crate) mod file;
pub(crate) mod floats;
pub(crate) mod footer;
pub(crate) mod inflate;
pub(crate) mod lineup;
pub(crate) mod open;
pub(crate) mod read;
#[cfg(test)]
mod read_tests;
pub(crate) mod sniff;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod text;
pub(crate) mod unit;
