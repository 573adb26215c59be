//! Offsets and limits of the packed body. Each offset is the one before plus the size of what stands there.

pub use fkv_formats::record::KEY_BYTES_MAX;

/// First bytes of a request body.
pub const REQUEST_MAGIC: [u8; 4] = *b"FKVQ";
/// First bytes of a reply body.
pub const REPLY_MAGIC: [u8; 4] = *b"FKVR";
/// The format version this build reads and writes.
pub const FORMAT: u16 = 0;

/// Most sections in one body.
pub const SECTIONS_MAX: usize = 64;
/// Most keys in one body, over all sections.
pub const KEYS_MAX: usize = 65_536;
/// Longest request body.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Longest reply body.
pub const REPLY_BYTES_MAX: usize = 64 << 20;
/// What gRPC messages may be longer than the body they carry: the field's tag and length, with room to spare.
pub const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// Blocks start at multiples of this.
pub(super) const ALIGN: usize = 8;
/// Bytes of either header.
pub(super) const HEADER_BYTES: usize = 32;

/// Offsets within the request header.
pub(super) mod request_header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const FORMAT: usize = MAGIC + 4;
    pub(crate) const FLAGS: usize = FORMAT + 2;
    pub(crate) const GENERATION: usize = FLAGS + 2;
    pub(crate) const READ_TS_MS: usize = GENERATION + 8;
    pub(crate) const SECTIONS: usize = READ_TS_MS + 8;
    pub(crate) const RESERVED: usize = SECTIONS + 2;
    pub(crate) const END: usize = RESERVED + 6;

    /// Bit of `FLAGS`: canary content is welcome.
    pub(crate) const FLAG_CANARY: u16 = 1;
}

/// Offsets within a request's section header.
pub(super) mod request_section {
    pub(crate) const UID: usize = 0;
    pub(crate) const SELECTOR: usize = UID + 8;
    pub(crate) const KEY_TYPE: usize = SELECTOR + 1;
    pub(crate) const VALUE_FORM: usize = KEY_TYPE + 1;
    pub(crate) const RESERVED: usize = VALUE_FORM + 1;
    pub(crate) const COUNT: usize = RESERVED + 1;
    pub(crate) const VERSION: usize = COUNT + 4;
    pub(crate) const CONTENT: usize = VERSION + 8;
    pub(crate) const KEY_BYTES: usize = CONTENT + 32;
    pub(crate) const RESERVED_END: usize = KEY_BYTES + 4;
    pub(crate) const END: usize = RESERVED_END + 4;
}

/// Offsets within the reply header.
pub(super) mod reply_header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const FORMAT: usize = MAGIC + 4;
    pub(crate) const FLAGS: usize = FORMAT + 2;
    pub(crate) const GENERATION: usize = FLAGS + 2;
    pub(crate) const SERVER_MS: usize = GENERATION + 8;
    pub(crate) const SECTIONS: usize = SERVER_MS + 8;
    pub(crate) const RESERVED: usize = SECTIONS + 2;
    pub(crate) const END: usize = RESERVED + 6;
}

/// Offsets within a reply's section header.
pub(super) mod reply_section {
    pub(crate) const UID: usize = 0;
    pub(crate) const STATUS: usize = UID + 8;
    pub(crate) const VALUE_TYPE: usize = STATUS + 1;
    pub(crate) const DIMENSION: usize = VALUE_TYPE + 1;
    pub(crate) const COUNT: usize = DIMENSION + 2;
    pub(crate) const SERVED_VERSION: usize = COUNT + 4;
    pub(crate) const SERVED_CONTENT: usize = SERVED_VERSION + 8;
    pub(crate) const SERVED_EPOCH: usize = SERVED_CONTENT + 32;
    pub(crate) const ALIGNED_VERSION: usize = SERVED_EPOCH + 8;
    pub(crate) const ALIGNED_CONTENT: usize = ALIGNED_VERSION + 8;
    pub(crate) const ALIGNED_EPOCH: usize = ALIGNED_CONTENT + 32;
    pub(crate) const OTHER_VERSION: usize = ALIGNED_EPOCH + 8;
    pub(crate) const OTHER_CONTENT: usize = OTHER_VERSION + 8;
    pub(crate) const AS_OF_S: usize = OTHER_CONTENT + 32;
    pub(crate) const FOUND: usize = AS_OF_S + 4;
    pub(crate) const VALUE_BYTES: usize = FOUND + 4;
    pub(crate) const RESERVED: usize = VALUE_BYTES + 4;
    pub(crate) const END: usize = RESERVED + 4;
}

const _: () = assert!(request_header::END == HEADER_BYTES && reply_header::END == HEADER_BYTES);
const _: () = assert!(request_section::END == 64 && reply_section::END == 168);
const _: () = assert!(request_section::END.is_multiple_of(ALIGN) && reply_section::END.is_multiple_of(ALIGN));
// Counts and lengths are u32 on the wire, and sums of two of them must not overflow a 32-bit usize.
const _: () = assert!(REQUEST_BYTES_MAX < 1 << 30 && REPLY_BYTES_MAX < 1 << 30 && KEYS_MAX < 1 << 24);

/// `len` rounded up to the next block.
#[inline]
pub(super) const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// Bytes of the statuses of `count` keys, without padding.
pub(super) const fn status_bytes(count: usize) -> usize {
    count.div_ceil(4)
}

/// The N bytes of `bytes` at `at`; the caller has checked that they exist.
#[inline]
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// The u16 at `at`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// The u32 at `at`.
#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// The u64 at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The u32 at `at`, as a length.
#[inline]
pub(super) fn len_at(bytes: &[u8], at: usize) -> usize {
    // usize has at least 32 bits on every platform tokio runs on.
    usize::try_from(u32_at(bytes, at)).unwrap_or(usize::MAX)
}

/// Writes `field` at `at`; the caller has made the room.
#[inline]
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// A count or length of our own making, which the limits keep below `u32::MAX`.
#[inline]
pub(super) fn u32_of(len: usize) -> u32 {
    u32::try_from(len).expect("limits keep every count and length within u32")
}
