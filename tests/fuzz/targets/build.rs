//! Builders: whatever records there are, what is built of them is sound, and they are found.
//!
//! ```text
//!   schema u8 │ load u8 │ flags u8 │ records
//!
//!   flags    bit 0: a filter; bits 1–7: the part, if keys are integers
//!   record   gap u8 (255: u64 follows; 254: u32; 253: u16) │ length u8 (255: u16 follows) │ [expiry u8]
//!            integers lie one gap further than the one before; byte keys have as many bytes of the input as the gap says,
//!            modulo 41, or from 200 on all one hash
//! ```
#![no_main]

use std::collections::BTreeMap;

use fkv_formats::hash::{hash_bytes, hash_u64, unhash_u64};
use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::inspect::{Inspection, inspect};
use fkv_formats::pack::PackWriter;
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_fuzz::{Choices, ORIGIN, part};

const RECORDS_MAX: usize = 2000;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum OwnedKey {
    U64(u64),
    Bytes(Vec<u8>),
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let schema = schema(choices.u8());
    let load_permille = 100 + u16::from(choices.u8()) * 7 / 2;
    let flags = choices.u8();
    let profile = Profile { load_permille, filter: flags & 1, ..Profile::CURRENT };
    let rows = rows(&schema, Part(u16::from(flags >> 1) * 19 % PART_COUNT), &mut choices);
    let mut records: Vec<RecordRef<'_>> = rows
        .iter()
        .map(|((h, key), (expiry, value))| {
            let key = match key {
                OwnedKey::U64(key) => Key::U64(*key),
                OwnedKey::Bytes(key) => Key::Bytes(key),
            };
            RecordRef { h: *h, key, expiry: *expiry, value: Some(value) }
        })
        .collect();
    records.sort_by_key(RecordRef::order);
    let mut pack = PackWriter::new(Vec::new(), ORIGIN, &schema, profile).expect("a legal schema and profile");
    for records in records.chunk_by(|a, b| a.part() == b.part()) {
        pack.add_part(records[0].part(), records).expect("records in order");
    }
    let (summary, object) = pack.finish().expect("memory takes all");
    let Ok(Inspection::Pack(seen)) = inspect(&object) else { panic!("a pack") };
    assert!(seen.is_sound(), "{seen:?}");
    let mut listed = Vec::new();
    for entry in &summary.directory.parts {
        let data = &object[entry.range().start as usize..entry.range().end as usize];
        let layout = entry.layout().expect("its own header");
        assert!(part::check(&layout, data, entry.part, &mut choices), "what is listed is found, nothing else is");
        listed.extend(layout.iter(data, entry.part, ORIGIN).map(|record| record.expect("a sound part")));
    }
    assert_eq!(listed, records);
});

fn schema(choice: u8) -> Schema {
    let kind = [TableKind::Mem, TableKind::Idx, TableKind::Blk][usize::from(choice % 3)];
    let key = if choice & 4 == 0 { KeyType::U64 } else { KeyType::Bytes };
    let values = [ValueType::Bytes, ValueType::F32(1), ValueType::I64, ValueType::F16(9), ValueType::F32(600)];
    let value = values[usize::from(choice >> 4) % values.len()];
    let (storage, f16_overflow) = (Storage::Native, F16Overflow::Reject);
    Schema { kind, key, value, storage, f16_overflow, ttl: choice & 8 != 0 }
}

/// Rows by hash and key: expiry and value.
fn rows(schema: &Schema, part: Part, choices: &mut Choices<'_>) -> BTreeMap<(u64, OwnedKey), (u32, Vec<u8>)> {
    let width = u64::MAX / u64::from(PART_COUNT);
    let first = (u128::from(part.0) << 64).div_ceil(u128::from(PART_COUNT)) as u64;
    let (mut place, mut rows) = (0u64, BTreeMap::new());
    while !choices.is_empty() && rows.len() < RECORDS_MAX {
        let gap = choices.u8();
        let (h, key) = match schema.key {
            KeyType::U64 => {
                let gap = match gap {
                    255 => choices.u64(),
                    254 => u64::from(choices.u32()),
                    253 => u64::from(choices.u16()),
                    _ => u64::from(gap),
                };
                place = place.wrapping_add(gap) % width;
                let key = unhash_u64(first + place);
                (hash_u64(key), OwnedKey::U64(key))
            }
            KeyType::Bytes if gap >= 200 => {
                let key = colliding_key(choices.u16());
                (hash_bytes(&key), OwnedKey::Bytes(key))
            }
            KeyType::Bytes => {
                let key = choices.take(usize::from(gap % 41)).to_vec();
                (hash_bytes(&key), OwnedKey::Bytes(key))
            }
        };
        let len = choices.u8();
        let len = schema.stored_width().unwrap_or(match len {
            255 => usize::from(choices.u16()),
            _ => usize::from(len),
        });
        let expiry = if schema.ttl { u32::from(choices.u8()) } else { 0 };
        rows.insert((h, key), (expiry, vec![len as u8 ^ 0x5a; len]));
    }
    rows
}

/// Keys that all have one hash. Of a 32-byte key xxh3 multiplies two pairs of words, each word mixed with a word of its
/// fixed secret; a first factor of 0 makes the second one vanish from the hash.
fn colliding_key(number: u16) -> Vec<u8> {
    const SECRET: [[u8; 8]; 2] =
        [[0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe], [0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb]];
    [SECRET[0], u64::from(number).to_be_bytes(), SECRET[1], [7; 8]].concat()
}
