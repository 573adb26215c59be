//! idx and blk tables against a model: whatever keys come, in whatever clusters, every key is found by one read with its
//! value, no other key is, and bytes that were never built make nothing panic.

mod samples;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::LazyLock;

use fkv_formats::checksum::{self, Origin};
use fkv_formats::error::{BuildError, FormatError};
use fkv_formats::hash::{hash_u64, unhash_u64};
use fkv_formats::id::{PART_COUNT, Part, TableUid, Version};
use fkv_formats::pack::PackWriter;
use fkv_formats::record::{KEY_BYTES_MAX, Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::blk::BlkBuilder;
use fkv_formats::table::disk::{BlockRead, Run};
use fkv_formats::table::idx::{Geometry, IdxBuilder};
use fkv_formats::table::mem::Probe;
use fkv_formats::table::{PartLayout, Profile, build_part};
use proptest::prelude::*;
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

/// Whether other records' tags are equal to this one's, so that an idx part may name their block first.
fn shares_its_tag(records: &[RecordRef<'_>], h: u64) -> bool {
    records.iter().filter(|other| (other.h ^ h) & 0xff_ffff == 0 && other.h != h).count() > 0
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
        // Tags that are equal by chance are as good as impossible in so few records.
        let exact = made == 1 || schema.kind == TableKind::Idx && shares_its_tag(records, record.h);
        assert!(exact, "{made} reads for {:016x}", record.h);
        let (value, expiry) = found.unwrap_or_else(|| panic!("{:016x} is lost", record.h));
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
    assert!(read.as_deref() == Ok(records), "all records are listed in order");
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

const VALUES: [ValueType; 6] =
    [ValueType::F32(1), ValueType::I64, ValueType::F16(50), ValueType::F32(400), ValueType::Bytes, ValueType::Bytes];

/// Hashes of one part: uniform, in runs of neighbours that share the top 32 bits of their places, and at the part's edges.
fn hashes(part: u16) -> impl Strategy<Value = Vec<u64>> {
    let width = u64::MAX / u64::from(PART_COUNT);
    let first = first_of(part);
    let run = (0..width, 0u64..600, prop::sample::select(vec![1u64, 3, 700, 1 << 16, 1 << 24, 1 << 40])).prop_map(
        move |(start, count, step)| (0..count).map(move |i| start.wrapping_add(i * step)).collect::<Vec<_>>(),
    );
    let edge = (0u64..300).prop_map(move |count| (0..count).map(|i| width - 1 - i).chain(0..count).collect::<Vec<_>>());
    let uniform = prop::collection::vec(0..width, 0..1500);
    prop::collection::vec(prop_oneof![4 => uniform, 3 => run, 1 => edge], 1..4)
        .prop_map(move |runs| runs.into_iter().flatten().map(|offset| first.wrapping_add(offset % width)).collect())
}

/// Lengths of values: mostly short, some of about a block, a few of several.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(
        prop_oneof![20 => 0usize..200, 2 => 900usize..1200, 1 => 4000usize..4200, 1 => 0usize..30_000],
        1..40,
    )
}

fn a_kind() -> impl Strategy<Value = (TableKind, Profile)> {
    prop::sample::select(&KINDS[..])
}

const NAMES_PART: Part = Part(5);

/// Byte keys of one part: of all lengths up to the longest, some one the beginning of another.
static NAMES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    (0u32..)
        .map(|i| match i % 100 {
            0 => i.to_le_bytes().repeat(1 + i as usize / 100 % (KEY_BYTES_MAX / 4)),
            _ => format!("user:{i}").into_bytes(),
        })
        .filter(|name| part_of(Key::Bytes(name).hash()) == NAMES_PART)
        .take(2000)
        .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_integer_key_is_found_by_one_read_and_no_other_key_is(
        (kind, profile) in a_kind(),
        value in prop::sample::select(&VALUES[..]),
        ttl: bool,
        (part, hashes) in (0..PART_COUNT).prop_flat_map(|part| (Just(Part(part)), hashes(part))),
        lengths in lengths(),
        strangers in prop::collection::vec(any::<u64>(), 0..200),
    ) {
        let schema = schema(kind, KeyType::U64, value, ttl);
        let records: Vec<Owned> = hashes.iter().zip(lengths.iter().cycle())
            .map(|(&h, &len)| owned(OwnedKey::U64(unhash_u64(h)), &schema, len)).collect();
        let records = sorted(&records, part);
        prop_assume!(!records.is_empty());
        // Neighbours of present hashes are the strangers most like them.
        let near = hashes.iter().flat_map(|&h| [h ^ 1, h.wrapping_add(1 << 48), h.wrapping_sub(1 << 24)]);
        let absent: Vec<OwnedKey> = near.chain(strangers).filter(|&h| part_of(h) == part)
            .map(|h| OwnedKey::U64(unhash_u64(h))).collect();
        build_and_check(&schema, profile, part, &records, &absent);
    }

    #[test]
    fn every_byte_key_is_found_by_one_read_and_no_other_key_is(
        (kind, profile) in a_kind(),
        value in prop::sample::select(&VALUES[..]),
        ttl: bool,
        lengths in lengths(),
        present in prop::collection::vec(any::<bool>(), 1..NAMES.len()),
    ) {
        let schema = schema(kind, KeyType::Bytes, value, ttl);
        let (mut records, mut absent) = (Vec::new(), Vec::new());
        let lengths = lengths.iter().cycle();
        for ((name, is_present), &len) in NAMES.iter().zip(present.into_iter().chain(std::iter::repeat(false))).zip(lengths) {
            let key = OwnedKey::Bytes(name.clone());
            if is_present { records.push(owned(key, &schema, len)) } else { absent.push(key) }
        }
        prop_assume!(!records.is_empty());
        build_and_check(&schema, profile, NAMES_PART, &sorted(&records, NAMES_PART), &absent);
    }
}

/// Keys that all have one hash. Of a 32-byte key xxh3 multiplies two pairs of words, each word mixed with a word of its
/// fixed secret; a first factor of 0 makes the second one vanish from the hash.
fn colliding_key(number: u64) -> Vec<u8> {
    const SECRET: [[u8; 8]; 2] =
        [[0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe], [0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb]];
    [SECRET[0], number.to_be_bytes(), SECRET[1], [7; 8]].concat()
}

#[test]
fn byte_keys_of_one_hash_are_in_one_read_however_many() {
    let h = Key::Bytes(&colliding_key(0)).hash();
    let others: Vec<OwnedKey> = (0u64..)
        .map(|i| OwnedKey::Bytes(format!("user:{i}").into_bytes()))
        .filter(|key| part_of(key.as_key().hash()) == part_of(h))
        .take(1200)
        .collect();
    let (present, strangers) = others.split_at(600);
    for (kind, profile) in KINDS {
        for colliding in [2u64, 20, 130, 5000] {
            let schema = schema(kind, KeyType::Bytes, ValueType::Bytes, false);
            let records: Vec<Owned> = (0..colliding)
                .map(|i| owned(OwnedKey::Bytes(colliding_key(i * 2)), &schema, i as usize % 90))
                .chain(present.iter().map(|key| owned(key.clone(), &schema, 30)))
                .collect();
            assert!(records[..colliding as usize].iter().all(|record| record.key.as_key().hash() == h));
            // Between the colliding keys, and beyond both ends.
            let absent: Vec<OwnedKey> = (0..=colliding)
                .map(|i| OwnedKey::Bytes(colliding_key(i * 2 + 1)))
                .chain([OwnedKey::Bytes(colliding_key(u64::MAX))])
                .chain(strangers.iter().cloned())
                .collect();
            build_and_check(&schema, profile, part_of(h), &sorted(&records, part_of(h)), &absent);
        }
    }
}

#[test]
fn values_of_many_blocks_are_one_read() {
    for (kind, profile) in KINDS {
        let schema = schema(kind, KeyType::Bytes, ValueType::Bytes, true);
        let lengths = [3 << 20, 0, 4096, 5 << 20, 16 << 20, 17, 1 << 20, 4050, 4060, 4070, 4080, 8000];
        let records: Vec<Owned> = NAMES
            .iter()
            .zip(lengths.iter().cycle())
            .take(30)
            .map(|(name, &len)| owned(OwnedKey::Bytes(name.clone()), &schema, len))
            .collect();
        let absent: Vec<OwnedKey> = NAMES[30..200].iter().cloned().map(OwnedKey::Bytes).collect();
        build_and_check(&schema, profile, NAMES_PART, &sorted(&records, NAMES_PART), &absent);
    }
}

/// Uniform hashes of one part.
fn uniform(part: u16, count: u64, salt: u64) -> Vec<u64> {
    let width = u64::MAX / u64::from(PART_COUNT);
    (0..count).map(|i| first_of(part) + 1 + hash_u64(i ^ salt << 40) % (width - 2)).collect()
}

fn floats(kind: TableKind, part: u16, count: u64, width: u16) -> (Schema, Vec<Owned>) {
    let schema = schema(kind, KeyType::U64, ValueType::F32(width), false);
    let records =
        uniform(part, count, 1).into_iter().map(|h| owned(OwnedKey::U64(unhash_u64(h)), &schema, 0)).collect();
    (schema, records)
}

/// The goals of design and brief, measured on one part of a table of a billion keys.
#[test]
fn indexes_are_small_and_absent_keys_seldom_read() {
    let part = 1234;
    let strangers: Vec<u64> = uniform(part, 1_000_000, 2);
    let share = |layout: &PartLayout, data: &[u8]| {
        let resident = &data[layout.block_len() as usize..];
        strangers.iter().map(|&h| reads(layout, resident, h).len()).sum::<usize>() as f64 / strangers.len() as f64
    };
    let build = |kind, profile| {
        let (schema, records) = floats(kind, part, 200_000, 16);
        let records = sorted(&records, Part(part));
        let (layout, data) =
            build_part(&schema, profile, ORIGIN, Part(part), &records, Vec::new()).expect("sorted records build");
        let resident = &data[layout.block_len() as usize..];
        let extra: usize = records.iter().map(|record| reads(&layout, resident, record.h).len() - 1).sum();
        (layout, data, records.len() as f64, extra)
    };
    let (idx, data, records, extra) = build(TableKind::Idx, Profile::CURRENT);
    let per_key = idx.resident_len() as f64 / records;
    assert!(per_key <= 8.0, "{per_key} bytes a key");
    assert!(share(&idx, &data) <= 1e-5, "{} reads per absent key", share(&idx, &data));
    assert!(extra <= 2, "{extra} records name another block too");
    let (blk, data, _, extra) = build(TableKind::Blk, Profile::CURRENT);
    let per_block = blk.resident_len() as f64 / (blk.block_len() / 4096) as f64;
    assert!(per_block <= 4.3, "{per_block} bytes a block");
    assert_eq!(extra, 0);
    assert!(share(&blk, &data) > 0.9, "without a filter nearly every key might be there");
    let (filtered, data, _, extra) = build(TableKind::Blk, FILTERED);
    assert_eq!(extra, 0);
    assert!(share(&filtered, &data) <= 0.0045, "{} reads per absent key", share(&filtered, &data));
    let PartLayout::Blk(layout) = filtered else { panic!("a blk part") };
    let filter_bits = layout.filter_len() as f64 * 8.0 / records;
    assert!(filter_bits <= 9.5, "{filter_bits} bits a key");
    assert_eq!(filtered.block_len(), blk.block_len());
}

#[test]
fn small_parts_have_small_indexes_too() {
    for count in [1u64, 40, 100, 1000, 2000, 3000] {
        let (schema, records) = floats(TableKind::Blk, 7, count, 16);
        let (layout, ..) = build_and_check(&schema, Profile::CURRENT, Part(7), &sorted(&records, Part(7)), &[]);
        assert!(layout.resident_len() <= 6 * layout.block_len() / 4096, "{layout:?}");
        let (schema, records) = floats(TableKind::Idx, 7, count, 16);
        let (layout, ..) = build_and_check(&schema, Profile::CURRENT, Part(7), &sorted(&records, Part(7)), &[]);
        assert!(count < 1000 || layout.resident_len() <= 8 * count, "{layout:?}");
    }
}

/// How much of the blocks is records, by the size of values: the table in the format's documentation.
#[test]
fn blocks_are_as_full_as_documented() {
    for (len, percent) in [
        (4usize, 75.6),
        (100, 95.7),
        (400, 90.0),
        (1024, 75.7),
        (1500, 73.7),
        (2100, 51.5),
        (4000, 97.9),
        (4100, 50.2),
        (100_000, 97.7),
    ] {
        let schema = schema(TableKind::Blk, KeyType::U64, ValueType::Bytes, false);
        let records: Vec<Owned> = uniform(7, (2_000_000 / len as u64).min(20_000), 1)
            .into_iter()
            .map(|h| owned(OwnedKey::U64(unhash_u64(h)), &schema, len))
            .collect();
        let records = sorted(&records, Part(7));
        let (layout, _) = build_part(&schema, Profile::CURRENT, ORIGIN, Part(7), &records, Vec::new()).expect("sorted");
        let spec = layout.record_spec().expect("on disk");
        let bytes: usize = records.iter().map(|record| spec.record_len(record)).sum();
        let fill = bytes as f64 * 100.0 / layout.block_len() as f64;
        assert!((fill - percent).abs() < 1.0, "values of {len} bytes fill {fill:.1} %, not {percent}");
    }
}

#[test]
fn clustered_keys_climb_the_rungs_and_are_still_found() {
    let schema = schema(TableKind::Idx, KeyType::U64, ValueType::F32(16), false);
    let first = first_of(7);
    let records: Vec<Owned> =
        (0..5000).map(|i| owned(OwnedKey::U64(unhash_u64(first + 1000 + i)), &schema, 0)).collect();
    let records = sorted(&records, Part(7));
    let absent: Vec<OwnedKey> =
        [0, 999, 6000, 1 << 40].into_iter().map(|i| OwnedKey::U64(unhash_u64(first + i))).collect();
    let (layout, _, vain) = build_and_check(&schema, Profile::CURRENT, Part(7), &records, &absent);
    let PartLayout::Idx(layout) = layout else { panic!("an idx part") };
    assert_eq!((layout.probe(), vain), (Probe::Sorted, 0));
    // The streaming builder says so instead of building something slow.
    let geometry = Geometry::first(&schema, Profile::CURRENT, records.len() as u64).expect("a legal count");
    let mut builder = IdxBuilder::new(geometry, ORIGIN, Part(7), Vec::new());
    let error = records.iter().find_map(|record| builder.push(*record).err()).expect("they cluster");
    assert!(matches!(error, BuildError::Displaced), "{error}");
}

#[test]
fn streaming_builders_write_what_building_at_once_does() {
    for (kind, profile) in KINDS {
        let (schema, records) = floats(kind, 7, 2000, 3);
        let records = sorted(&records, Part(7));
        let whole = build_part(&schema, profile, ORIGIN, Part(7), &records, Vec::new()).expect("sorted");
        let streamed: (PartLayout, Vec<u8>) = if kind == TableKind::Idx {
            let geometry = Geometry::plan(&schema, profile, records.iter().map(|record| record.h)).expect("legal");
            assert!(geometry.building_bytes() >= whole.0.resident_len());
            let mut builder = IdxBuilder::new(geometry, ORIGIN, Part(7), Vec::new());
            records.iter().for_each(|record| builder.push(*record).expect("in order"));
            let (layout, data) = builder.finish().expect("all came");
            (layout.into(), data)
        } else {
            let mut builder = BlkBuilder::new(&schema, profile, ORIGIN, Part(7), Vec::new()).expect("legal");
            records.iter().for_each(|record| builder.push(*record).expect("in order"));
            let (layout, data) = builder.finish().expect("all came");
            (layout.into(), data)
        };
        assert!(streamed == whole, "{kind}");
        // In a pack too, whether its data comes at once or bit by bit.
        let pack = || PackWriter::new(Vec::new(), ORIGIN, &schema, profile).expect("memory takes all");
        let (mut added, mut put, mut streamed) = (pack(), pack(), pack());
        added.add_part(Part(7), &records).expect("sorted");
        put.put_part(Part(7), &whole.0, &whole.1).expect("built");
        let mut part = streamed.start_part(Part(7)).expect("the first part");
        let (blocks, resident) = whole.1.split_at(whole.0.block_len() as usize);
        blocks.chunks(1000).for_each(|bytes| part.write_all(bytes).expect("memory takes all"));
        part.end_blocks();
        resident.chunks(1000).for_each(|bytes| part.write_all(bytes).expect("memory takes all"));
        part.finish(&whole.0).expect("complete");
        let added = added.finish().expect("memory takes all");
        assert!(
            added == put.finish().expect("memory takes all") && added == streamed.finish().expect("memory takes all")
        );
        // A part whose sections were not told apart is refused.
        let mut part = pack();
        let mut part = part.start_part(Part(7)).expect("the first part");
        part.write_all(&whole.1).expect("memory takes all");
        assert!(matches!(part.finish(&whole.0), Err(BuildError::Limit(_))));
    }
}

#[test]
fn the_resident_section_is_verified_by_itself() {
    let (schema, records) = floats(TableKind::Idx, 7, 30_000, 16);
    let mut pack = PackWriter::new(Vec::new(), ORIGIN, &schema, Profile::CURRENT).expect("memory takes all");
    pack.add_part(Part(7), &sorted(&records, Part(7))).expect("sorted");
    let (summary, object) = pack.finish().expect("memory takes all");
    let part = summary.directory.part(Part(7)).expect("there");
    let layout = part.layout().expect("a sound header");
    assert_eq!(part.resident_range(), part.offset + layout.block_len()..part.offset + layout.data_len());
    assert_eq!(part.block_len(), layout.block_len());
    assert!(part.block_chunks() > 10 && part.chunks.len() as u32 > part.block_chunks() + 1);
    let mut at = layout.block_len();
    for chunk in part.block_chunks()..part.chunks.len() as u32 {
        let range = part.chunk_range(chunk).expect("it exists");
        assert_eq!(range.start, at, "chunks of the section begin with it");
        let bytes = &object[(part.offset + range.start) as usize..(part.offset + range.end) as usize];
        part.verify_chunk(ORIGIN, chunk, bytes).expect("as written");
        at = range.end;
    }
    assert_eq!((at, part.chunk_range(part.chunks.len() as u32)), (part.len(), None));
}

#[test]
fn a_run_from_another_place_does_not_verify() {
    let (schema, records) = floats(TableKind::Blk, 7, 500, 16);
    let (_, data) =
        build_part(&schema, Profile::CURRENT, ORIGIN, Part(7), &sorted(&records, Part(7)), Vec::new()).expect("sorted");
    let block = &data[4096..8192];
    assert!(Run::verify(block, ORIGIN, Part(7), 1).is_ok());
    for (origin, part, number) in [
        (Origin { uid: TableUid(8), ..ORIGIN }, Part(7), 1),
        (Origin { version: Version(9), ..ORIGIN }, Part(7), 1),
        (ORIGIN, Part(8), 1),
        (ORIGIN, Part(7), 2),
    ] {
        assert!(matches!(Run::verify(block, origin, part, number), Err(FormatError::Checksum { .. })));
    }
    assert!(Run::verify(&data[4096..12_288], ORIGIN, Part(7), 1).is_err(), "two runs are not one");
    // A chunk's checksum is no run's, though table, part and number are the same.
    assert_ne!(checksum::chunk(ORIGIN, Part(7), 1, &block[8..]), checksum::run(ORIGIN, Part(7), 1, &block[8..]));
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let schema = |kind| schema(kind, KeyType::U64, ValueType::F32(1), false);
    let mut keys: Vec<u64> = (0..100_000).filter(|&key| part_of(hash_u64(key)) == Part(3)).collect();
    keys.sort_by_key(|&key| hash_u64(key));
    let record = |index: usize| RecordRef::new(Key::U64(keys[index]), 0, Some(&[1, 2, 3, 4]));
    let of = |kind, records: &[RecordRef<'_>]| {
        build_part(&schema(kind), Profile::CURRENT, ORIGIN, Part(3), records, Vec::new()).map(|_| ())
    };
    for kind in [TableKind::Idx, TableKind::Blk] {
        assert!(matches!(of(kind, &[record(1), record(0)]), Err(BuildError::OutOfOrder { index: 1 })));
        assert!(matches!(of(kind, &[record(1), record(1)]), Err(BuildError::OutOfOrder { index: 1 })));
        assert!(matches!(of(kind, &[]), Err(BuildError::Limit(_))));
        for (bad, what) in [
            (RecordRef { value: None, ..record(0) }, "a tombstone"),
            (RecordRef { value: Some(&[1, 2, 3]), ..record(0) }, "a short value"),
            (RecordRef { expiry: 9, ..record(0) }, "an expiry without TTL"),
            (RecordRef { key: Key::Bytes(b"k"), ..record(0) }, "a byte key"),
        ] {
            assert!(matches!(of(kind, &[bad]), Err(BuildError::Unfit { index: 0, .. })), "{what}");
        }
        let elsewhere = build_part(&schema(kind), Profile::CURRENT, ORIGIN, Part(4), &[record(0)], Vec::new());
        assert!(matches!(elsewhere, Err(BuildError::WrongPart { .. })));
    }
    let geometry = Geometry::first(&schema(TableKind::Idx), Profile::CURRENT, 2).expect("a legal count");
    let mut builder = IdxBuilder::new(geometry, ORIGIN, Part(3), Vec::new());
    builder.push(record(0)).expect("one of two");
    assert!(matches!(builder.finish(), Err(BuildError::Count { announced: 2, found: 1 })));
    assert!(Geometry::first(&schema(TableKind::Blk), Profile::CURRENT, 2).is_err());
    assert!(BlkBuilder::new(&schema(TableKind::Idx), Profile::CURRENT, ORIGIN, Part(3), Vec::new()).is_err());
    let unknown = Profile { filter: 2, ..Profile::CURRENT };
    assert!(BlkBuilder::new(&schema(TableKind::Blk), unknown, ORIGIN, Part(3), Vec::new()).is_err());
}

/// Records that must lie together, and would take more than any read should, are refused, not built.
#[test]
fn a_cluster_beyond_the_longest_run_is_refused() {
    let schema = schema(TableKind::Blk, KeyType::U64, ValueType::Bytes, false);
    let long = vec![1; 16 << 20];
    let keys: Vec<u64> = (0..5).map(|i| unhash_u64(first_of(7) + 5000 + i)).collect();
    let records: Vec<RecordRef<'_>> = keys.iter().map(|&key| RecordRef::new(Key::U64(key), 0, Some(&long))).collect();
    let build = |count: usize| {
        build_part(&schema, Profile::CURRENT, ORIGIN, Part(7), &records[..count], std::io::sink()).map(|_| ())
    };
    assert!(build(3).is_ok());
    assert!(matches!(build(5), Err(BuildError::Limit(_))));
}

#[test]
fn a_part_of_another_schema_is_foreign() {
    for (kind, profile) in KINDS {
        let (own, records) = floats(kind, 7, 10, 16);
        let (layout, ..) = build_and_check(&own, profile, Part(7), &sorted(&records, Part(7)), &[]);
        let other_kind = if kind == TableKind::Idx { TableKind::Blk } else { TableKind::Idx };
        for other in [
            schema(other_kind, KeyType::U64, ValueType::F32(16), false),
            schema(TableKind::Mem, KeyType::U64, ValueType::F32(16), false),
            schema(kind, KeyType::Bytes, ValueType::F32(16), false),
            schema(kind, KeyType::U64, ValueType::F32(17), false),
            schema(kind, KeyType::U64, ValueType::F32(16), true),
            schema(kind, KeyType::U64, ValueType::Bytes, false),
        ] {
            assert!(matches!(layout.matches(&other), Err(FormatError::Foreign { .. })), "{other:?}");
        }
    }
}

#[test]
fn a_layout_is_small_enough_to_keep_one_per_part() {
    assert!(size_of::<PartLayout>() <= 72, "{} bytes", size_of::<PartLayout>());
}
