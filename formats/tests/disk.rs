//! idx and blk tables against a model: whatever keys come, in whatever clusters, every key is found by one read with its
//! value, no other key is, and bytes that were never built make nothing panic.

mod samples;

use std::collections::BTreeMap;

use fkv_formats::hash::unhash_u64;
use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::disk::{BlockRead, Run};
use fkv_formats::table::{PartLayout, Profile, build_part};
use samples::ORIGIN;

const FILTERED: Profile = Profile { filter: Profile::FILTER_FUSE8, ..Profile::CURRENT };

fn schema(kind: TableKind, key: KeyType, value: ValueType, ttl: bool) -> Schema {
    let (storage, f16_overflow) = (Storage::Native, F16Overflow::Reject);
    Schema { kind, key, value, storage, f16_overflow, ttl }
}

/// A record that owns its bytes.
#[derive(Clone, Debug)]
struct Owned {
    key: OwnedKey,
    expiry: u32,
    value: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum OwnedKey {
    U64(u64),
    Bytes(Vec<u8>),
}

impl OwnedKey {
    fn as_key(&self) -> Key<'_> {
        match self {
            Self::U64(key) => Key::U64(*key),
            Self::Bytes(key) => Key::Bytes(key),
        }
    }
}

/// A value that says whose it is, so that a wrong one is seen.
fn value_of(key: Key<'_>, len: usize) -> Vec<u8> {
    let h = key.hash();
    (0..len).map(|index| (h.rotate_left(index as u32 * 5) as u8).wrapping_add(index as u8)).collect()
}

fn owned(key: OwnedKey, schema: &Schema, len: usize) -> Owned {
    let value = value_of(key.as_key(), schema.value.fixed_width().unwrap_or(len));
    let expiry = if schema.ttl { (key.as_key().hash() >> 40) as u32 % 3 * 1000 } else { 0 };
    Owned { key, expiry, value }
}

/// The records of `part`, sorted, each key once.
fn sorted(records: &[Owned], part: Part) -> Vec<RecordRef<'_>> {
    let model: BTreeMap<_, _> = records
        .iter()
        .map(|record| RecordRef::new(record.key.as_key(), record.expiry, Some(&record.value)))
        .filter(|record| record.part() == part)
        .map(|record| (record.order(), record))
        .collect();
    model.into_values().collect()
}

/// The first hash of a part.
fn first_of(part: u16) -> u64 {
    (u128::from(part) << 64).div_ceil(u128::from(PART_COUNT)) as u64
}

/// Runs that a lookup reads until it finds the key, or knows that it is absent.
fn reads(layout: &PartLayout, resident: &[u8], h: u64) -> Vec<BlockRead> {
    match layout {
        PartLayout::Mem(_) => panic!("a part on disk"),
        PartLayout::Idx(layout) => layout.candidates(resident, h).collect(),
        PartLayout::Blk(layout) => layout.locate(resident, h).into_iter().collect(),
    }
}

/// Looks a key up as a server does; gives the number of reads and value and expiry.
fn look_up(layout: &PartLayout, data: &[u8], part: Part, key: Key<'_>) -> (usize, Option<(Vec<u8>, u32)>) {
    let (blocks, resident) = data.split_at(layout.block_len() as usize);
    let spec = layout.record_spec().expect("a part on disk");
    let mut made = 0;
    for read in reads(layout, resident, key.hash()) {
        made += 1;
        let bytes = &blocks[read.range().start as usize..read.range().end as usize];
        let run = Run::verify(bytes, ORIGIN, part, read.first).expect("a sound run");
        if let Some(found) = run.find(&spec, key.hash(), key) {
            return (made, Some((found.value.to_vec(), found.expiry)));
        }
    }
    (made, None)
}

/// Builds, and checks every promise of reading against the records built from; gives the number of reads in vain.
fn build_and_check(
    schema: &Schema,
    profile: Profile,
    part: Part,
    records: &[RecordRef<'_>],
    absent: &[OwnedKey],
) -> (PartLayout, Vec<u8>, usize) {
    let (layout, data) =
        build_part(schema, profile, ORIGIN, part, records, Vec::new()).expect("sorted records of one part build");
    assert_eq!(PartLayout::parse(&layout.header()), Ok(layout));
    assert_eq!(layout.matches(schema), Ok(()));
    assert_eq!((layout.data_len(), layout.records()), (data.len() as u64, records.len() as u64));
    for record in records {
        let (made, found) = look_up(&layout, &data, part, record.key);
        assert_eq!(made, 1, "{record:?}");
        let (value, expiry) = found.unwrap_or_else(|| panic!("{record:?} is lost"));
        assert_eq!((Some(&value[..]), expiry), (record.value, record.expiry));
    }
    let mut vain = 0;
    for key in absent {
        let there = records.binary_search_by_key(&(key.as_key().hash(), key.as_key()), RecordRef::order).is_ok();
        let (made, found) = look_up(&layout, &data, part, key.as_key());
        assert_eq!(found.is_some(), there, "{key:?}");
        vain += if there { 0 } else { made };
    }
    let read: Result<Vec<_>, _> = layout.iter(&data, part, ORIGIN).collect();
    assert_eq!(read.as_deref(), Ok(records));
    (layout, data, vain)
}

const KINDS: [(TableKind, Profile); 3] =
    [(TableKind::Idx, Profile::CURRENT), (TableKind::Blk, Profile::CURRENT), (TableKind::Blk, FILTERED)];

#[test]
fn small_parts_of_every_kind_are_read_back() {
    for (kind, profile) in KINDS {
        for (key, value, ttl) in [
            (KeyType::U64, ValueType::F32(1), false),
            (KeyType::U64, ValueType::F32(100), true),
            (KeyType::Bytes, ValueType::Bytes, true),
            (KeyType::Bytes, ValueType::F32(16_384), false),
            (KeyType::U64, ValueType::Bytes, false),
        ] {
            let schema = schema(kind, key, value, ttl);
            for count in [1, 2, 300, 3000] {
                let count = if value == ValueType::F32(16_384) { count.min(40) } else { count };
                let part = Part(7);
                let key_of = |number: u64| match key {
                    KeyType::U64 => OwnedKey::U64(unhash_u64(first_of(7) + number * 1_000_003 * 1_000_003)),
                    KeyType::Bytes => OwnedKey::Bytes(format!("user:{number}").into_bytes()),
                };
                let in_part = |key: &OwnedKey| part_of(key.as_key().hash()) == part;
                let mut keys = (0..).map(key_of).filter(in_part);
                let records: Vec<Owned> = keys
                    .by_ref()
                    .take(count)
                    .enumerate()
                    .map(|(i, key)| owned(key, &schema, if i == 77 { 3 << 20 } else { i * i % 9000 }))
                    .collect();
                let absent: Vec<OwnedKey> = keys.take(100).collect();
                build_and_check(&schema, profile, part, &sorted(&records, part), &absent);
            }
        }
    }
}
