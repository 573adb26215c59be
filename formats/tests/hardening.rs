//! Damaged files: every flipped bit and every truncation of a file of every format is detected, and bytes that were never
//! written by a builder, but carry good checksums, make nothing panic.
//!
//! Half a million flips for each file are affordable because each is checked where readers would check it: the footer and
//! directory, the chunk, the run of blocks, the zeros between parts. Now and then the whole file is looked through as well.

mod samples;

use std::ops::Range;

use fkv_formats::checksum::{self, CHUNK_BYTES};
use fkv_formats::error::FormatError;
use fkv_formats::id::Part;
use fkv_formats::inspect::{Inspection, inspect};
use fkv_formats::manifest::Form;
use fkv_formats::pack::{DirectoryRead, PackDirectory, PackPart};
use fkv_formats::record::Key;
use fkv_formats::schema::{KeyType, Schema, TableKind, ValueType};
use fkv_formats::table::disk::{BLOCK_BYTES, BlockRead, RecordSpec, Run};
use fkv_formats::table::{PartHeader, PartLayout};
use proptest::prelude::*;
use samples::{ORIGIN, Sample, build_pack, disk_schemas, form_of, schema};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// One flip in so many is also tried on the whole path, from parsing to the records.
const WHOLE_PATH_EVERY: usize = 4999;

/// How the bytes of a stretch of a file are checked.
enum Check<'a> {
    /// As footer and directory, which are these last bytes of the file.
    Tail,
    /// As a chunk of a part, with its number; in a block section also as a run.
    Chunk(&'a PackPart, u32, Option<BlockRead>),
    /// As bytes between parts.
    Gap,
}

/// The runs of the block section of a part.
fn runs(object: &[u8], part: &PackPart) -> Vec<BlockRead> {
    let layout = part.layout().expect("a sound header");
    let (mut first, mut runs) = (0, Vec::new());
    while u64::from(first) * (BLOCK_BYTES as u64) < layout.block_len() {
        let at = part.offset as usize + first as usize * BLOCK_BYTES;
        let blocks = Run::blocks_announced(&object[at..]).expect("a sound head");
        runs.push(BlockRead { first, blocks });
        first += blocks;
    }
    runs
}

/// Every stretch of a pack, in order and without holes.
fn stretches<'a>(object: &[u8], directory: &'a PackDirectory, tail_len: u64) -> Vec<(Range<usize>, Check<'a>)> {
    let mut stretches: Vec<(Range<usize>, Check<'a>)> = Vec::new();
    let mut end = 0;
    for part in &directory.parts {
        let data = part.offset as usize;
        stretches.push((end..data, Check::Gap));
        for run in runs(object, part) {
            let range = run.range();
            let chunk = (range.start / CHUNK_BYTES as u64) as u32;
            assert!(
                range.end <= part.chunk_range(chunk).expect("it exists").end,
                "the samples keep runs within chunks"
            );
            stretches
                .push((data + range.start as usize..data + range.end as usize, Check::Chunk(part, chunk, Some(run))));
        }
        for chunk in part.block_chunks()..part.chunks.len() as u32 {
            let range = part.chunk_range(chunk).expect("it exists");
            stretches.push((data + range.start as usize..data + range.end as usize, Check::Chunk(part, chunk, None)));
        }
        end = part.range().end as usize;
    }
    let tail = object.len() - tail_len as usize;
    stretches.push((end..tail, Check::Gap));
    stretches.push((tail..object.len(), Check::Tail));
    let covered = stretches.iter().fold(0, |at, (range, _)| {
        assert_eq!(range.start, at, "no hole, no overlap");
        range.end
    });
    assert_eq!(covered, object.len());
    stretches
}

/// Whether what a reader does with these bytes tells that they are not those written.
fn is_detected(object: &[u8], directory: &PackDirectory, stretch: &Range<usize>, check: &Check<'_>) -> bool {
    match check {
        Check::Tail => PackDirectory::parse(&object[stretch.clone()], object.len() as u64).is_err(),
        Check::Gap => directory.verify_gaps(object).is_err(),
        Check::Chunk(part, chunk, run) => {
            let range = part.chunk_range(*chunk).expect("it exists");
            let at = part.offset as usize;
            let bytes = &object[at + range.start as usize..at + range.end as usize];
            let run_is_refused =
                run.is_none_or(|run| Run::verify(&object[stretch.clone()], ORIGIN, part.part, run.first).is_err());
            run_is_refused && part.verify_chunk(ORIGIN, *chunk, bytes).is_err()
        }
    }
}

fn is_sound(object: &[u8]) -> bool {
    matches!(inspect(object), Ok(Inspection::Pack(pack)) if pack.is_sound())
}

/// Flips every bit of the pack of a sample, and cuts it at every byte.
fn damage_everywhere(sample: &Sample) {
    let (summary, object) = build_pack(sample);
    assert!((40 << 10..110 << 10).contains(&object.len()), "{}: {} bytes", sample.name, object.len());
    assert!(is_sound(&object), "{}", sample.name);
    let directory = &summary.directory;
    let mut altered = object.clone();
    let mut flips = 0;
    for (stretch, check) in stretches(&object, directory, summary.tail_len) {
        for at in stretch.clone() {
            for bit in 0..8 {
                altered[at] ^= 1 << bit;
                assert!(is_detected(&altered, directory, &stretch, &check), "{}: bit {bit} of byte {at}", sample.name);
                flips += 1;
                if flips % WHOLE_PATH_EVERY == 0 {
                    assert!(!is_sound(&altered), "{}: bit {bit} of byte {at}", sample.name);
                }
                altered[at] ^= 1 << bit;
            }
        }
    }
    assert_eq!(flips, object.len() * 8);
    for cut in 0..object.len() {
        let cut_off = &object[..cut];
        let parsed = PackDirectory::parse(cut_off, cut as u64);
        assert!(parsed.is_err(), "{} cut at {cut}: {parsed:?}", sample.name);
        assert!(inspect(cut_off).is_err(), "{} cut at {cut}", sample.name);
        // A file that was cut where it is stored, but whose length is known from elsewhere, is missing bytes at its end.
        let parsed = PackDirectory::parse(cut_off, object.len() as u64);
        assert!(parsed.is_err(), "{} cut at {cut}: {parsed:?}", sample.name);
    }
}

#[test]
fn no_flipped_bit_or_cut_of_a_memory_pack_goes_unnoticed() {
    // Inline, dense, heap. Many small parts keep the bytes checked for a flip few.
    for (schema, count) in [
        (schema(KeyType::U64, ValueType::F32(1), false), 300),
        (schema(KeyType::U64, ValueType::F32(16), true), 60),
        (schema(KeyType::Bytes, ValueType::Bytes, true), 22),
    ] {
        let parts: Vec<u16> = (0..16).map(|part| part * 150).collect();
        damage_everywhere(&Sample::new(&schema, &parts, count));
    }
    // Sorted, in one part.
    let floats = schema(KeyType::U64, ValueType::F32(1), false);
    damage_everywhere(&Sample::at("u64-f32-sorted", &floats, 5, 0..4000));
}

#[test]
fn no_flipped_bit_or_cut_of_an_idx_pack_goes_unnoticed() {
    for schema in disk_schemas().iter().filter(|schema| schema.kind == TableKind::Idx) {
        let sample = Sample::new(schema, &[0, 700, 1400, 2399], 70);
        damage_everywhere(&if schema.value == ValueType::Bytes { sample.with_long_value(9000) } else { sample });
    }
}

#[test]
fn no_flipped_bit_or_cut_of_a_blk_pack_goes_unnoticed() {
    for schema in disk_schemas().iter().filter(|schema| schema.kind == TableKind::Blk) {
        let sample = |_| {
            let sample = Sample::new(schema, &[0, 700, 1400, 2399], 70);
            if schema.value == ValueType::Bytes { sample.with_long_value(9000) } else { sample }
        };
        damage_everywhere(&sample(()));
        damage_everywhere(&sample(()).filtered());
    }
}

/// Only a part of 32 blocks and more has a directory of its blocks: of so large a file, all bits but those of the blocks.
#[test]
fn no_flipped_bit_beside_the_blocks_of_a_large_part_goes_unnoticed() {
    let sample = Sample::golden_on_disk().pop().expect("the sample with a directory");
    let (summary, object) = build_pack(&sample);
    let Ok(PartLayout::Blk(layout)) = summary.directory.parts[0].layout() else { panic!("a blk part") };
    assert!(layout.index_len() > u64::from(layout.blocks()) * 4 && layout.filter_len() > 0, "it has all there can be");
    let mut altered = object.clone();
    let mut flips = 0;
    for (stretch, check) in stretches(&object, &summary.directory, summary.tail_len) {
        if matches!(check, Check::Chunk(_, _, Some(_))) {
            continue;
        }
        for (at, bit) in stretch.clone().flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            altered[at] ^= 1 << bit;
            assert!(is_detected(&altered, &summary.directory, &stretch, &check), "bit {bit} of byte {at}");
            altered[at] ^= 1 << bit;
            flips += 1;
        }
    }
    assert_eq!(flips as u64, (object.len() as u64 - layout.block_len()) * 8);
}

/// A form has 160 KB at least. Its checksum is computed anew for every flip, from the kilobyte with the flip on.
#[test]
fn no_flipped_bit_or_cut_of_a_form_goes_unnoticed() {
    const STEP: usize = 1024;
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[0, 2399], 20);
    let (summary, _) = build_pack(&sample);
    let form = form_of(&sample.schema, &[("p/pack-00000", &summary)]);
    let bytes = form.encode();
    assert_eq!(Form::decode(&bytes), Ok(form));
    let (checked, stored) = bytes.split_last_chunk::<8>().expect("longer");
    let stored = u64::from_le_bytes(*stored);
    // What decoding checks first, resumed at every step.
    let mut prefix = Xxh3::new();
    let mut steps = Vec::new();
    for (number, step) in checked.chunks(STEP).enumerate() {
        steps.push((number * STEP, step.len(), prefix.clone()));
        prefix.update(step);
    }
    assert_eq!(prefix.digest(), stored);
    let flip_step = |(start, len, prefix): &(usize, usize, Xxh3)| {
        let mut altered = checked[*start..].to_vec();
        for at in 0..*len {
            for bit in 0..8 {
                altered[at] ^= 1 << bit;
                let mut sum = prefix.clone();
                sum.update(&altered);
                assert_ne!(sum.digest(), stored, "bit {bit} of byte {}", start + at);
                altered[at] ^= 1 << bit;
            }
        }
    };
    // Two halves of about equal work: the suffixes shorten.
    let halves = [0, 1].map(|half| steps.iter().skip(half).step_by(2));
    std::thread::scope(|scope| {
        for half in halves {
            scope.spawn(|| half.for_each(flip_step));
        }
    });
    let mut altered = bytes.clone();
    let decoded_too = (0..bytes.len()).step_by(61).chain(0..256).chain(bytes.len() - 8..bytes.len());
    for at in decoded_too {
        for bit in 0..8 {
            altered[at] ^= 1 << bit;
            assert!(Form::decode(&altered).is_err(), "bit {bit} of byte {at}");
            altered[at] ^= 1 << bit;
        }
    }
    // Every prefix is checked against its own last 8 bytes.
    let mut sum = Xxh3::new();
    for cut in 8..bytes.len() {
        assert_ne!(sum.digest().to_le_bytes(), bytes[cut - 8..cut], "cut at {cut}");
        sum.update(&bytes[cut - 8..cut - 7]);
    }
    for cut in (0..bytes.len()).step_by(61).chain(0..256).chain(bytes.len() - 256..bytes.len()) {
        assert!(Form::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

/// A run with this directory and these bytes, whose checksum is right.
fn sealed(mut bytes: Vec<u8>, first_block: u32) -> Vec<u8> {
    let sum = checksum::run(ORIGIN, Part(3), first_block, &bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn any_disk_schema() -> impl Strategy<Value = Schema> {
    prop::sample::select(disk_schemas())
}

/// Looks everything up that can be looked up, and lists everything that can be listed.
fn use_part(layout: &PartLayout, data: &[u8], part: Part, hashes: &[u64]) -> usize {
    let section = (layout.block_len() as usize).min(data.len());
    let (blocks, resident) = data.split_at(section);
    let mut found = 0;
    let mut read = |read: BlockRead, h: u64| {
        let range = read.range();
        assert!(range.end <= layout.block_len() && !range.is_empty(), "{read:?} leaves the section");
        let bytes = blocks.get(range.start as usize..(range.end as usize).min(blocks.len())).unwrap_or_default();
        if let (Ok(run), Some(spec)) = (Run::verify(bytes, ORIGIN, part, read.first), layout.record_spec()) {
            found += usize::from(run.find(&spec, h, Key::U64(h)).is_some());
            found += usize::from(run.find(&spec, h, Key::Bytes(b"user:1")).is_some());
        }
    };
    for &h in hashes {
        match layout {
            PartLayout::Mem(layout) => {
                let _ = layout.find(data, h, Key::U64(h));
            }
            PartLayout::Idx(layout) => {
                let _ = layout.first_line(h);
                layout.candidates(resident, h).take(10_000).for_each(|place| read(place, h));
            }
            PartLayout::Blk(layout) => {
                let _ = (layout.fingerprints(h), layout.directory_number(h), layout.first_entry(resident, h));
                layout.locate(resident, h).into_iter().for_each(|place| read(place, h));
            }
        }
    }
    let listed = layout.iter(data, part, ORIGIN).count();
    assert!(listed <= data.len() + 1);
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_runs_never_panic(
        blocks in 1usize..4,
        head in prop::collection::vec(any::<u8>(), 0..200),
        records in prop_oneof![0u32..40, any::<u32>()],
        announced in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        schema in any_disk_schema(),
        h: u64,
    ) {
        let mut bytes = vec![0; blocks * BLOCK_BYTES];
        bytes[16..16 + head.len()].copy_from_slice(&head);
        for (place, byte) in changes {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        bytes[8..12].copy_from_slice(&announced.unwrap_or(blocks as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&records.to_le_bytes());
        let bytes = sealed(bytes, 5);
        let spec = RecordSpec::of_schema(&schema);
        if let Ok(run) = Run::verify(&bytes, ORIGIN, Part(3), 5) {
            prop_assert_eq!(run.blocks() as usize, blocks);
            for tag in [h, 0, u64::from(head.first().copied().unwrap_or(0))] {
                let _ = run.find(&spec, tag, Key::U64(h));
                let _ = run.find(&spec, tag, Key::Bytes(&head));
            }
            prop_assert!(run.iter(spec).count() <= run.records() as usize + 1);
        }
        for cut in [0, 1, 15, 16, 4095, bytes.len() - 1] {
            prop_assert!(Run::verify(&bytes[..cut], ORIGIN, Part(3), 5).is_err());
        }
        let _ = Run::blocks_announced(&head);
    }

    /// Headers that say anything, before data that says anything else.
    #[test]
    fn arbitrary_headers_and_data_never_panic(
        sample in prop::sample::select((0..6usize).collect::<Vec<_>>()),
        header_changes in prop::collection::vec((0usize..64, any::<u8>()), 0..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        cut in prop::option::of(any::<prop::sample::Index>()),
        hashes in prop::collection::vec(any::<u64>(), 20),
    ) {
        let (summary, object) = &GOLDEN[sample];
        let entry = &summary.directory.parts[0];
        let mut data = object[entry.range().start as usize..entry.range().end as usize].to_vec();
        let mut header = entry.header;
        for (place, byte) in header_changes {
            header[place] = byte;
        }
        for (place, byte) in changes {
            let at = place.index(data.len());
            data[at] = byte;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        let layout = PartLayout::parse(&header).unwrap_or_else(|_| entry.layout().expect("a sound header"));
        let present = entry.layout().expect("a sound header").iter(
            &object[entry.range().start as usize..entry.range().end as usize], entry.part, ORIGIN,
        );
        let present: Vec<u64> = present.filter_map(Result::ok).map(|record| record.h).collect();
        use_part(&layout, &data, entry.part, &hashes);
        use_part(&layout, &data, entry.part, &present);
    }

    #[test]
    fn random_headers_never_panic(header: [u8; 32], rest: [u8; 32], common in 0usize..20, hashes: [u64; 4]) {
        let mut bytes: PartHeader = [0; 64];
        bytes[..32].copy_from_slice(&header);
        bytes[32..].copy_from_slice(&rest);
        // Most random headers fail at their first byte: lead some further.
        bytes[0] = 1 + bytes[0] % 3;
        if common > 2 { bytes[2] &= 1; bytes[3] = 0; bytes[1] &= 1; }
        if common > 4 { bytes[5..8].fill(0); bytes[12..16].fill(0); bytes[22..24].fill(0); }
        if common > 6 { bytes[24] &= 1; bytes[25] = if bytes[0] == 2 { 3 } else { bytes[25] % 20 }; bytes[26] = 0; }
        if common > 8 { bytes[27] = 0; bytes[30..32].fill(0); bytes[44..].fill(0); }
        if let Ok(layout) = PartLayout::parse(&bytes) {
            use_part(&layout, &[7; 3 * BLOCK_BYTES], Part(3), &hashes);
        }
    }

    /// Packs of tables on disk whose directory lies, under good checksums.
    #[test]
    fn directories_that_lie_never_panic(
        sample in 0..6usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (summary, object) = &GOLDEN[sample];
        let mut object = object.clone();
        let (tail, footer) = (object.len() - summary.tail_len as usize, object.len() - 64);
        for (place, byte) in changes {
            let at = tail + place.index(summary.tail_len as usize - 16);
            object[at] = byte;
        }
        let directory_sum = xxh3_64(&object[tail..footer]);
        object[footer + 40..footer + 48].copy_from_slice(&directory_sum.to_le_bytes());
        let sum = xxh3_64(&object[footer..footer + 48]);
        object[footer + 48..footer + 56].copy_from_slice(&sum.to_le_bytes());
        let _ = inspect(&object);
        if let Ok(DirectoryRead::Ready(directory)) = PackDirectory::parse(&object, object.len() as u64) {
            for part in &directory.parts {
                prop_assert!(part.range().end <= object.len() as u64);
                for chunk in 0..part.chunks.len() as u32 {
                    let range = part.chunk_range(chunk);
                    prop_assert!(range.is_some_and(|range| range.start < range.end && range.end <= part.len()));
                }
                prop_assert_eq!(part.chunk_range(part.chunks.len() as u32), None);
                if let Ok(layout) = part.layout() {
                    let data = &object[part.range().start as usize..part.range().end as usize];
                    use_part(&layout, data, part.part, &[0, 1 << 63, u64::MAX]);
                }
            }
        }
    }
}

static GOLDEN: std::sync::LazyLock<Vec<(fkv_formats::pack::PackSummary, Vec<u8>)>> =
    std::sync::LazyLock::new(|| Sample::golden_on_disk().iter().map(build_pack).collect());

/// The error says where the damage is, so that the part can be fetched again.
#[test]
fn a_damaged_block_is_named() {
    let (summary, object) = &GOLDEN[0];
    let part = &summary.directory.parts[1];
    let at = part.offset as usize + BLOCK_BYTES;
    let mut bytes = object[at..at + BLOCK_BYTES].to_vec();
    bytes[100] ^= 1;
    let error = Run::verify(&bytes, ORIGIN, part.part, 1).expect_err("damaged");
    assert_eq!(error, FormatError::Checksum { what: "block 1 of part 1".to_owned() });
}
