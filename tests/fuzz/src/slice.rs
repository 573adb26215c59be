//! One slice, sealed or not.
//!
//! ```text
//!   base u8 │ what u8 │ patches u8 │ [parts] │ patches (crate::patch)
//!
//!   base     0, 1 a golden slice; 2 one with the parts that follow; beyond that raw: the rest is the slice
//!   what     the schema (bits 0–2), tombstones (bit 3), places (bit 4) of parts that follow
//!   patches  how many, at most 31; bit 7: nothing is sealed; bit 6: directory and footer only
//!
//!   parts    how many u8, at most 8 │ each: chunks u8, at most 8 │ each chunk: records u8 │ length u8 │ bytes
//! ```
//!
//! A part that follows is the one its first record belongs to, if it is behind the part before.

use fkv_formats::checksum::slice_chunk;
use fkv_formats::error::FormatError;
use fkv_formats::id::{PART_COUNT, Part, TableUid, TaskId};
use fkv_formats::inspect::{Inspection, inspect};
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::slice::{
    CHUNK_HEAD_BYTES, RecordLayout, SliceDirectory, SliceId, SlicePart, SliceRecord, SliceSpec, SliceWriter, Walked,
    encode_part,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::choices::Choices;
use crate::patch::patch;

/// Whole slices.
const GOLDEN: [&[u8]; 2] = [
    include_bytes!("../../../formats/testdata/u64-f32.slice"),
    include_bytes!("../../../formats/testdata/bytes-bytes-ttl.slice"),
];
const BUILT: usize = GOLDEN.len();
const HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 12;
const ENTRIES_BYTES: usize = PART_COUNT as usize * ENTRY_BYTES;
const FOOTER_BYTES: usize = 80;
const ID: SliceId = SliceId { uid: TableUid(5), task: TaskId(6), plan: 1, number: 2, piece: 3 };

/// Reads a slice made of `bytes`.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (base, what, patches) = (usize::from(choices.u8()), choices.u8(), choices.u8());
    let mut object = match base {
        BUILT => build(&spec(what), &mut choices),
        _ => GOLDEN.get(base).map_or_else(|| choices.take(usize::MAX).to_vec(), |golden| golden.to_vec()),
    };
    if let Some(entries) = object.len().checked_sub(ENTRIES_BYTES + FOOTER_BYTES) {
        let footer = entries + ENTRIES_BYTES;
        // Mostly chunks, and the entries that are not all alike.
        let (start, end) = (HEADER_BYTES.min(entries), object.len());
        let heads = start..(start + CHUNK_HEAD_BYTES).min(entries);
        patch(
            &mut object,
            &[heads, start..entries, footer..end, entries..footer, 0..start],
            patches & 31,
            &mut choices,
        );
    }
    match patches >> 6 {
        0 => seal(&mut object, true),
        1 => seal(&mut object, false),
        _ => {}
    }
    let is_sound = check(&object);
    assert!(is_sound || GOLDEN.get(base) != Some(&&object[..]), "a golden slice is sound");
}

fn spec(what: u8) -> SliceSpec {
    let (key, value, ttl) = match what & 7 {
        0 => (KeyType::U64, ValueType::F32(1), false),
        1 => (KeyType::U64, ValueType::F32(1), true),
        2 => (KeyType::U64, ValueType::Bytes, false),
        3 => (KeyType::U64, ValueType::F16(3), true),
        4 => (KeyType::Bytes, ValueType::I64, false),
        5 => (KeyType::Bytes, ValueType::Bytes, true),
        6 => (KeyType::Bytes, ValueType::Bytes, false),
        _ => (KeyType::Bytes, ValueType::F32(2), true),
    };
    let (kind, storage, f16_overflow) = (TableKind::Mem, Storage::Native, F16Overflow::Reject);
    let schema = Schema { kind, key, value, storage, f16_overflow, ttl };
    SliceSpec { schema, tombstones: what & 8 != 0, places: what & 16 != 0 }
}

/// A slice of chunks that hold anything; nothing is sealed.
fn build(spec: &SliceSpec, choices: &mut Choices<'_>) -> Vec<u8> {
    let (_, empty) = SliceWriter::new(Vec::new(), ID, spec).and_then(SliceWriter::finish).expect("a slice");
    let mut object = empty[..HEADER_BYTES].to_vec();
    let mut entries = Vec::with_capacity(ENTRIES_BYTES);
    let mut records_of_all = 0u64;
    let mut put_entry = |end: usize, records: u32| {
        entries.extend_from_slice(&(end as u64).to_le_bytes());
        entries.extend_from_slice(&records.to_le_bytes());
        entries.len() / ENTRY_BYTES
    };
    let mut behind = 0;
    for _ in 0..choices.u8().min(8) {
        let (start, mut records, mut part) = (object.len(), 0, None);
        for _ in 0..choices.u8().min(8) {
            let (count, len) = (choices.u8(), usize::from(choices.u8()));
            let bytes = choices.take(len);
            let first = RecordLayout::of(spec).decode(bytes).ok().map(|(first, _)| first.record.part());
            part = part.or(first);
            object.extend_from_slice(&[0; 8]);
            object.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            object.extend_from_slice(&u32::from(count).to_le_bytes());
            object.extend_from_slice(bytes);
            records += u32::from(count);
        }
        let part = part.map_or(behind, |part| usize::from(part.0));
        if part < behind || part >= usize::from(PART_COUNT) {
            object.truncate(start);
            continue;
        }
        while behind < part {
            behind = put_entry(start, 0);
        }
        behind = put_entry(object.len(), records);
        records_of_all += u64::from(records);
    }
    while behind < usize::from(PART_COUNT) {
        behind = put_entry(object.len(), 0);
    }
    let directory_start = object.len() as u64;
    object.extend_from_slice(&entries);
    let footer = object.len();
    object.extend_from_slice(&empty[empty.len() - FOOTER_BYTES..]);
    object[footer + 40..footer + 48].copy_from_slice(&records_of_all.to_le_bytes());
    object[footer + 48..footer + 56].copy_from_slice(&directory_start.to_le_bytes());
    object
}

/// Makes the checksums of directory and footer good, and those of chunks: as a writer would who stores nonsense.
fn seal(object: &mut [u8], chunks: bool) {
    let Some(entries) = object.len().checked_sub(ENTRIES_BYTES + FOOTER_BYTES) else { return };
    let footer = entries + ENTRIES_BYTES;
    if chunks {
        let u32_there = |at: usize| u32::from_le_bytes(*object[footer + at..].first_chunk().expect("in the footer"));
        let u64_there = |at: usize| u64::from_le_bytes(*object[footer + at..].first_chunk().expect("in the footer"));
        let id = SliceId {
            uid: TableUid(u64_there(0)),
            task: TaskId(u64_there(8)),
            plan: u32_there(16),
            number: u32_there(20),
            piece: u32_there(24),
        };
        let mut start = HEADER_BYTES;
        for part in 0..PART_COUNT {
            let at = entries + usize::from(part) * ENTRY_BYTES;
            let end = u64::from_le_bytes(*object[at..].first_chunk().expect("in the directory"));
            let end = usize::try_from(end).unwrap_or(usize::MAX).min(entries).max(start);
            seal_chunks(&mut object[start..end], &id, Part(part));
            start = end;
        }
    }
    let sum = xxh3_64(&object[entries..footer]);
    object[footer + 56..footer + 64].copy_from_slice(&sum.to_le_bytes());
    let sum = xxh3_64(&object[footer..footer + 64]);
    object[footer + 64..footer + 72].copy_from_slice(&sum.to_le_bytes());
}

fn seal_chunks(mut rest: &mut [u8], id: &SliceId, part: Part) {
    let mut number = 0;
    while rest.len() >= CHUNK_HEAD_BYTES {
        let len = u32::from_le_bytes(*rest[8..].first_chunk().expect("the head")) as usize;
        let (chunk, behind) = rest.split_at_mut((CHUNK_HEAD_BYTES + len).min(rest.len()));
        let sum = slice_chunk(id, part, number, &chunk[8..]);
        chunk[..8].copy_from_slice(&sum.to_le_bytes());
        number += 1;
        rest = behind;
    }
}

/// Reads a slice in all ways there are; gives whether it is sound.
fn check(object: &[u8]) -> bool {
    let parsed = SliceDirectory::parse(object, object.len() as u64);
    let tail = object.len().saturating_sub(SliceDirectory::TAIL_BYTES as usize);
    assert_eq!(SliceDirectory::parse(&object[tail..], object.len() as u64), parsed);
    let inspection = inspect(object);
    let Ok(directory) = parsed else {
        assert!(!matches!(inspection, Ok(Inspection::Slice(_))));
        return false;
    };
    assert!(directory.spec().schema.validate().is_ok());
    let (mut end, mut records, mut is_sound) = (HEADER_BYTES as u64, 0, true);
    for part in (0..PART_COUNT).map(Part) {
        let there = directory.part(part);
        assert_eq!((there.range().start, there.part()), (end, part));
        end = there.range().end;
        records += u64::from(there.records());
        if !there.is_empty() {
            is_sound &= check_part(&directory, &there, &object[there.range().start as usize..end as usize]);
        }
    }
    assert_eq!((end + SliceDirectory::TAIL_BYTES, records), (object.len() as u64, directory.records()));
    match inspection {
        Ok(Inspection::Slice(seen)) => {
            assert_eq!(seen.damage.is_empty(), is_sound, "both find fault with the same slices")
        }
        // Its first bytes, which no reader of parts needs.
        other => assert!(!object.starts_with(b"FKVSLC\x01\x00"), "{other:?}"),
    }
    is_sound
}

fn check_part(directory: &SliceDirectory, part: &SlicePart, bytes: &[u8]) -> bool {
    let read: Vec<Result<SliceRecord<'_>, FormatError>> = part.read(bytes).collect();
    let failed = read.iter().position(Result::is_err);
    assert!(failed.is_none_or(|at| at + 1 == read.len()), "nothing follows an error");
    let records: Vec<SliceRecord<'_>> = read.into_iter().map_while(Result::ok).collect();
    assert!(records.is_sorted_by(|a, b| a.record.order() < b.record.order()));
    assert!(records.iter().all(|record| record.record.part() == part.part()));

    // A reader that holds one chunk sees the same, but not across chunks.
    let (mut walk, mut at, mut held, mut walked) = (part.walk(), 0, 0, Vec::new());
    let ended = loop {
        match walk.step(&bytes[at..(at + held).min(bytes.len())]) {
            Ok(Walked::Needs(needed)) => {
                assert!(needed > held, "what is there is not asked for again");
                if at + needed > bytes.len() {
                    break false;
                }
                held = needed;
            }
            Ok(Walked::Chunk(chunk)) => {
                walked.extend(chunk.iter().map_while(Result::ok));
                at += chunk.len();
                held = 0;
            }
            Ok(Walked::End) => break true,
            Err(_) => break false,
        }
    };
    assert!(walked.starts_with(&records));
    let is_sound = failed.is_none();
    if is_sound {
        assert!(ended && walked.len() == records.len() && part.records() as usize == records.len());
        let again = encode_part(directory.id(), directory.spec(), part.part(), records.iter().copied());
        let again = again.expect("what was read can be written");
        // Chunks may have been cut otherwise, but they hold the same.
        let record_bytes = |bytes: &[u8]| bytes.len() - CHUNK_HEAD_BYTES * chunks(bytes);
        assert_eq!((again.records(), record_bytes(again.bytes())), (part.records(), record_bytes(bytes)));
    }
    is_sound
}

/// The chunks one behind the other.
fn chunks(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while bytes.len() >= CHUNK_HEAD_BYTES {
        let len = u32::from_le_bytes(*bytes[8..].first_chunk().expect("a head")) as usize;
        bytes = &bytes[(CHUNK_HEAD_BYTES + len).min(bytes.len())..];
        count += 1;
    }
    count
}
