//! The last bytes of a pack.
//!
//! ```text
//!   flags u8 │ length of the object u64 │ the tail
//!
//!   flags   bit 0: directory and footer are sealed; bit 1: the tail is the whole object
//! ```
#![no_main]

use fkv_formats::checksum::chunk_count;
use fkv_formats::pack::{DirectoryRead, PackDirectory};
use fkv_fuzz::{Choices, seal_directory};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let (flags, len) = (choices.u8(), choices.u64());
    let mut tail = choices.rest().to_vec();
    if flags & 1 != 0 {
        seal_directory(&mut tail);
    }
    let len = if flags & 2 != 0 { tail.len() as u64 } else { len };
    match PackDirectory::parse(&tail, len) {
        Ok(DirectoryRead::Ready(directory)) => check(&directory, tail.len() as u64, len),
        Ok(DirectoryRead::NeedTail(needed)) => assert!(needed > tail.len() as u64 && needed <= len),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn check(directory: &PackDirectory, tail_len: u64, len: u64) {
    assert!(directory.parts.is_sorted_by(|a, b| a.part < b.part && a.range().end <= b.range().start));
    directory.profile.check().expect("a profile this build reads");
    directory.schema.validate().expect("a valid schema");
    for part in &directory.parts {
        assert_eq!(directory.part(part.part), Some(part));
        let range = part.range();
        assert!(!part.is_empty() && range.start >= 64 && range.end <= len);
        assert!(part.block_len() <= part.len() && part.resident_range().end == range.end);
        // Chunks cover the data, in both sections, and no byte twice.
        let chunks = chunk_count(part.block_len()) + chunk_count(part.len() - part.block_len());
        assert_eq!(chunks, part.chunks.len() as u64);
        let mut end = 0;
        for chunk in 0..part.chunks.len() as u32 {
            let range = part.chunk_range(chunk).expect("a chunk of this number");
            assert!(range.start == end && range.end > end);
            end = range.end;
        }
        assert_eq!(end, part.len());
        assert_eq!(part.chunk_range(part.chunks.len() as u32), None);
        if let Ok(layout) = part.layout() {
            assert_eq!((layout.data_len(), layout.block_len()), (part.len(), part.block_len()));
            assert_eq!(layout.header(), part.header);
        }
    }
    // What was allocated was there: 8 bytes for each checksum.
    let chunks: usize = directory.parts.iter().map(|part| part.chunks.len()).sum();
    assert!(chunks as u64 * 8 <= tail_len);
}
