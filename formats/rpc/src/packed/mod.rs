//! The packed body of BatchGet. Everything is little-endian; every block starts at a multiple of 8 bytes from the
//! body's start and is padded with zeros up to the next one.
//!
//! ```text
//!   request   ┌─ header 32 ─┬─ section 64 ─┬─ keys ───────────────┬─ section 64 ─┬─ keys ─ …
//!             u64 keys:   count × u64
//!             bytes keys: count × u32 end offsets │ key bytes │ zeros to 8
//!
//!   reply     ┌─ header 32 ─┬─ section 168 ─┬─ statuses ─┬─ values ─┬─ section 168 ─ …
//!             statuses:        2 bits a key, key i in bits 2(i mod 4) of byte i/4 │ zeros to 8
//!             values, dense:   one value of fixed width per *found* key │ zeros to 8
//!             values, bytes:   one u32 end offset per key (of every status) │ value bytes │ zeros to 8
//! ```
//!
//! Readers borrow from the received [`Bytes`](bytes::Bytes) and validate everything before they hand out anything:
//! arbitrary bytes give a [`PackedError`], never a panic and never memory beyond the body itself and a few words per
//! section. Writers fill one buffer of exact size.

mod error;
mod label;
mod layout;
mod reply;
mod request;
mod writer;

#[cfg(test)]
mod tests;

pub use error::PackedError;
pub use label::{HeldContent, KeyStatus, SectionLabel, SectionStatus, Shown};
pub use layout::{
    FORMAT, KEY_BYTES_MAX, KEYS_MAX, MESSAGE_OVERHEAD_BYTES, REPLY_BYTES_MAX, REPLY_MAGIC, REQUEST_BYTES_MAX,
    REQUEST_MAGIC, SECTIONS_MAX,
};
pub use reply::{Answers, Reply, ReplyHeader, ReplySection};
pub use request::{
    BytesKeys, Keys, Request, RequestHeader, RequestWriter, Section, SectionHeader, Selector, U64Keys, ValueForm,
    bytes_section_bytes, u64_section_bytes,
};
pub use writer::{DenseWriter, ReplyTooLarge, ReplyWriter, VariableWriter, reply_section_bytes};
