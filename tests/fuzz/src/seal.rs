//! Makes checksums good again, from the places `docs/file-format.md` gives them: as a writer would who stores nonsense.

use fkv_formats::checksum::{self, CHUNK_BYTES, Origin};
use fkv_formats::id::{PART_COUNT, Part, TableUid, Version};
use fkv_formats::table::disk::{BLOCK_BYTES, Run};
use xxhash_rust::xxh3::xxh3_64;

const FOOTER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 80;

/// Seals the runs of a block section, one behind the other, each as long as it says or, where it cannot be, of one block.
pub fn seal_runs(section: &mut [u8], origin: Origin, part: Part) {
    let mut first = 0;
    while let Some(rest) = section.get_mut(first * BLOCK_BYTES..).filter(|rest| rest.len() >= BLOCK_BYTES) {
        let announced = Run::blocks_announced(rest).map_or(1, |blocks| blocks as usize);
        let blocks = if announced * BLOCK_BYTES <= rest.len() { announced } else { 1 };
        let bytes = &mut rest[..blocks * BLOCK_BYTES];
        let sum = checksum::run(origin, part, first as u32, &bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        first += blocks;
    }
}

/// Seals directory and footer at the end of a pack or of its tail.
pub fn seal_directory(tail: &mut [u8]) {
    let Some(footer) = tail.len().checked_sub(FOOTER_BYTES) else { return };
    let directory_len = u64_at(tail, footer);
    if let Some(start) = usize::try_from(directory_len).ok().and_then(|len| footer.checked_sub(len)) {
        let sum = xxh3_64(&tail[start..footer]);
        tail[footer + 40..footer + 48].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = xxh3_64(&tail[footer..footer + 48]);
    tail[footer + 48..footer + 56].copy_from_slice(&sum.to_le_bytes());
}

/// Seals a whole pack: the runs and chunks of every part whose data lies in it, then directory and footer.
pub fn seal_pack(object: &mut [u8]) {
    let Some(footer) = object.len().checked_sub(FOOTER_BYTES) else { return };
    let start = usize::try_from(u64_at(object, footer)).ok().and_then(|len| footer.checked_sub(len));
    if let Some(start) = start {
        let origin =
            Origin { uid: TableUid(u64_at(object, footer + 8)), version: Version(u64_at(object, footer + 16)) };
        seal_parts(object, start..footer, origin);
    }
    seal_directory(object);
}

fn seal_parts(object: &mut [u8], directory: std::ops::Range<usize>, origin: Origin) {
    let footer = directory.end;
    let parts = (u32_at(object, footer + 32) as usize).min(usize::from(PART_COUNT));
    let mut sums_at = directory.start + parts * ENTRY_BYTES;
    for number in 0..parts {
        let at = directory.start + number * ENTRY_BYTES;
        if at + ENTRY_BYTES > footer {
            return;
        }
        let part = Part(u16::from_le_bytes([object[at], object[at + 1]]));
        let (offset, len) = (u64_at(object, at + 8), u64_at(object, at + 32));
        let blocks = if object[at + 16] == 1 { 0 } else { u64::from(u32_at(object, at + 44)) * BLOCK_BYTES as u64 };
        let place = |at: u64| usize::try_from(at).ok().filter(|&at| at <= directory.start);
        let ends = (place(offset), offset.checked_add(len).and_then(place), offset.checked_add(blocks).and_then(place));
        let (Some(start), Some(end), Some(behind_blocks)) = ends else { return };
        if behind_blocks > end {
            return;
        }
        seal_runs(&mut object[start..behind_blocks], origin, part);
        let sums: Vec<u64> = [start..behind_blocks, behind_blocks..end]
            .into_iter()
            .flat_map(|section| object[section].chunks(CHUNK_BYTES))
            .zip(0..)
            .map(|(bytes, index)| checksum::chunk(origin, part, index, bytes))
            .collect();
        for sum in sums {
            let Some(stored) = object[..footer].get_mut(sums_at..sums_at + 8) else { return };
            stored.copy_from_slice(&sum.to_le_bytes());
            sums_at += 8;
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}
