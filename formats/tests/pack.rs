//! Packs and forms: what is written is read back from the tail alone, and no altered byte is taken for the original.

mod samples;

use fkv_formats::checksum::{CHUNK_BYTES, Origin, verify_part};
use fkv_formats::error::{BuildError, FormatError};
use fkv_formats::id::{Digest, PART_COUNT, Part, TableUid, Version};
use fkv_formats::inspect::{Inspection, SampleKey, inspect};
use fkv_formats::manifest::{Form, Layer, PartEntry, content_id_full, content_id_increment};
use fkv_formats::pack::{DirectoryRead, FOOTER_BYTES, PackDirectory, PackSummary, PackWriter};
use fkv_formats::schema::{KeyType, Schema, ValueType};
use fkv_formats::table::Profile;
use fkv_formats::value::Value;
use proptest::prelude::*;
use samples::{ORIGIN, Sample, build_pack, form_of, schema};

fn ready(tail: &[u8], object_len: u64) -> PackDirectory {
    match PackDirectory::parse(tail, object_len) {
        Ok(DirectoryRead::Ready(directory)) => directory,
        other => panic!("expected a directory, not {other:?}"),
    }
}

fn data(object: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    &object[range.start as usize..range.end as usize]
}

/// Verifies every part of an object as a server does; the first thing that is wrong.
fn verify_all(object: &[u8], expected: &PackSummary) -> Result<(), FormatError> {
    let DirectoryRead::Ready(directory) = PackDirectory::parse(object, object.len() as u64)? else {
        return Err(FormatError::Magic { what: "whole object" });
    };
    for part in &expected.directory.parts {
        let found = directory.part(part.part).filter(|found| found.digest == part.digest);
        let found = found.ok_or(FormatError::Foreign { what: "part", reason: "another digest".into() })?;
        assert_eq!(found, part, "an equal digest means an equal part");
        verify_part(data(object, found.range()), found, ORIGIN)?;
    }
    Ok(())
}

#[test]
fn a_pack_is_read_from_its_tail_alone() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[3, 4, 900], 40);
    let (summary, object) = build_pack(&sample);
    let len = object.len() as u64;
    assert_eq!(summary.len, len);
    let tail = |bytes: u64| &object[(len - bytes) as usize..];
    assert_eq!(ready(tail(summary.tail_len), len), summary.directory);
    assert_eq!(ready(&object, len), summary.directory);
    for short in [FOOTER_BYTES as u64, summary.tail_len - 1] {
        assert_eq!(PackDirectory::parse(tail(short), len), Ok(DirectoryRead::NeedTail(summary.tail_len)));
    }
    assert!(matches!(PackDirectory::parse(tail(63), len), Err(FormatError::Truncated { .. })));
    let numbers: Vec<u16> = summary.directory.parts.iter().map(|part| part.part.0).collect();
    assert_eq!(numbers, [3, 4, 900]);
    assert!(summary.directory.parts.iter().all(|part| part.offset % 64 == 0));
    assert!(summary.directory.part(Part(5)).is_none());
    let mut records = sample.records().into_iter();
    for part in &summary.directory.parts {
        let image = data(&object, part.range());
        verify_part(image, part, ORIGIN).expect("as written");
        for read in part.mem_layout().expect("a sound header").iter(image, part.part) {
            assert_eq!(Some(read.expect("a sound image")), records.next());
        }
    }
    assert_eq!(records.next(), None);
}

#[test]
fn data_of_another_table_version_or_part_does_not_verify() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[3, 4], 40);
    let (summary, object) = build_pack(&sample);
    let [a, b] = &summary.directory.parts[..] else { panic!("two parts") };
    let image = data(&object, a.range());
    for origin in [Origin { uid: TableUid(8), ..ORIGIN }, Origin { version: Version(9), ..ORIGIN }] {
        assert!(matches!(verify_part(image, a, origin), Err(FormatError::Checksum { .. })));
    }
    let moved = fkv_formats::pack::PackPart { part: b.part, ..a.clone() };
    assert!(verify_part(image, &moved, ORIGIN).is_err());
    assert!(matches!(verify_part(&image[1..], a, ORIGIN), Err(FormatError::Truncated { .. })));
    assert!(matches!(verify_part(&[], a, ORIGIN), Err(FormatError::Truncated { .. })));
}

/// Invariant: any altered stored byte is an error, or a byte that no reader uses.
#[test]
fn no_flipped_bit_of_a_pack_goes_unnoticed() {
    for sample in Sample::every_shape() {
        let (summary, object) = build_pack(&sample);
        let used = |at: u64| {
            at >= summary.len - summary.tail_len
                || summary.directory.parts.iter().any(|part| part.range().contains(&at))
        };
        let mut altered = object.clone();
        for at in 0..object.len() {
            altered[at] ^= 1 << (at % 8);
            let verified = verify_all(&altered, &summary);
            assert_eq!(verified.is_err(), used(at as u64), "byte {at} of {}: {verified:?}", sample.name);
            // Whatever is altered, looking into it never panics.
            let _ = inspect(&altered);
            altered[at] = object[at];
        }
        for cut in 0..object.len() {
            assert!(verify_all(&object[..cut], &summary).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn a_chunk_is_verified_by_itself() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(512), false), &[3], 100);
    let (summary, object) = build_pack(&sample);
    let part = &summary.directory.parts[0];
    assert!(part.chunks.len() >= 3, "{} chunks", part.chunks.len());
    for (index, bytes) in (0..).zip(data(&object, part.range()).chunks(CHUNK_BYTES)) {
        part.verify_chunk(ORIGIN, index, bytes).expect("as written");
        assert!(part.verify_chunk(ORIGIN, index + 1, bytes).is_err());
    }
}

#[test]
fn parts_out_of_order_or_unfinished_are_refused() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[3, 4], 40);
    let records = sample.records();
    let of = |part: u16| records.iter().copied().filter(|record| record.part().0 == part).collect::<Vec<_>>();
    let writer = || PackWriter::new(Vec::new(), ORIGIN, &sample.schema, Profile::CURRENT).expect("memory takes all");
    let mut pack = writer();
    pack.add_part(Part(4), &of(4)).expect("the first part");
    for part in [3, 4, PART_COUNT] {
        assert!(matches!(pack.add_part(Part(part), &of(3)), Err(BuildError::PartOrder { .. })), "part {part}");
    }
    pack.add_part(Part(5), &[]).expect("an empty part is left out");
    let (summary, _) = pack.finish().expect("memory takes all");
    assert_eq!(summary.directory.parts.len(), 1);
    // A part that failed half-way leaves bytes behind: the pack is of no use any more.
    let mut pack = writer();
    assert!(matches!(pack.add_part(Part(3), &of(4)), Err(BuildError::WrongPart { .. })));
    assert!(matches!(pack.add_part(Part(3), &of(3)), Err(BuildError::PartOrder { .. })));
    assert!(matches!(pack.finish(), Err(BuildError::PartOrder { part: 3, .. })));
    // A layout that is not that of the bytes written.
    let mut pack = writer();
    let (layout, image) =
        fkv_formats::table::mem::build_part(&sample.schema, Profile::CURRENT, Part(3), &of(3), Vec::new())
            .expect("built");
    let mut part = pack.start_part(Part(3)).expect("the first part");
    std::io::Write::write_all(&mut part, &image[1..]).expect("memory takes all");
    assert!(matches!(part.finish(&layout.into()), Err(BuildError::Limit(_))));
}

#[test]
fn a_writer_that_takes_little_at_a_time_gets_the_same_bytes() {
    struct Slow(Vec<u8>);
    impl std::io::Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(7);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sample = Sample::new(&schema(KeyType::Bytes, ValueType::Bytes, true), &[3, 9], 40);
    let (summary, object) = build_pack(&sample);
    let (slow_summary, slow) = samples::write_pack(&sample, Slow(Vec::new()));
    assert_eq!((slow_summary, slow.0), (summary, object));
}

#[test]
fn a_full_disk_is_an_error() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[3], 40);
    let (_, object) = build_pack(&sample);
    for room in [0, 10, 64, 200, object.len() - 1] {
        let mut disk = vec![0; room];
        let pack = PackWriter::new(&mut disk[..], ORIGIN, &sample.schema, Profile::CURRENT);
        let written = pack.and_then(|mut pack| {
            pack.add_part(Part(3), &sample.records())?;
            pack.finish()
        });
        assert!(matches!(written, Err(BuildError::Io(_))), "room for {room} bytes");
    }
}

#[test]
fn inspecting_a_pack_shows_what_is_in_it() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::I64, true), &[3, 7], 60);
    let (summary, mut object) = build_pack(&sample);
    let Ok(Inspection::Pack(pack)) = inspect(&object) else { panic!("a pack") };
    assert!(pack.is_sound());
    assert_eq!(pack.records(), sample.records().len() as u64);
    assert_eq!(pack.displacement().iter().sum::<u64>(), pack.records());
    assert_eq!(pack.directory, summary.directory);
    let (first, record) = (&pack.parts[0].first, sample.records()[0]);
    assert_eq!(first.len(), 5);
    assert!((0.1..=1.0).contains(&pack.parts[0].load));
    assert_eq!((first[0].h, first[0].expiry), (record.h, record.expiry));
    assert_eq!(fkv_formats::record::Key::U64(samples::u64_of(&first[0].key)), record.key);
    let stored: [u8; 8] = record.value.expect("no tombstones").try_into().expect("8 bytes");
    assert_eq!(first[0].value, Value::I64(i64::from_le_bytes(stored)));
    // One damaged part does not hide the other.
    let at = summary.directory.parts[1].offset as usize;
    object[at] ^= 1;
    let Ok(Inspection::Pack(pack)) = inspect(&object) else { panic!("a pack") };
    assert!(!pack.is_sound());
    assert_eq!(pack.parts[0].damage, None);
    assert!(matches!(pack.parts[1].damage, Some(FormatError::Checksum { .. })));
    assert!(matches!(inspect(b"PAR1 and so on"), Err(FormatError::Magic { .. })));
    let newer = [&b"FKVPCK"[..], &[2, 0], &[0; 100]].concat();
    assert!(inspect(&newer).expect_err("a newer pack").is_newer_format());
    let Ok(Inspection::Pack(names)) =
        inspect(&build_pack(&Sample::new(&schema(KeyType::Bytes, ValueType::Bytes, false), &[3], 5)).1)
    else {
        panic!("a pack")
    };
    assert!(matches!(&names.parts[0].first[0].key, SampleKey::Bytes(key) if !key.is_empty()));
}

#[test]
fn a_form_survives_its_bytes_and_no_others() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[0, 2399], 20);
    let (summary, _) = build_pack(&sample);
    let form = form_of(&sample.schema, &[("p/pack-00000", &summary)]);
    let bytes = form.encode();
    assert_eq!(Form::decode(&bytes), Ok(form.clone()));
    let filtered = Form { profile: Profile { filter: Profile::FILTER_FUSE8, ..form.profile }, ..form.clone() };
    assert_eq!(Form::decode(&filtered.encode()), Ok(filtered));
    assert_eq!((form.records(), form.layers[0].objects.len()), (sample.records().len() as u64, 1));
    let entry = form.layers[0].part(Part(2399));
    assert_eq!((entry.digest, entry.origin(form.uid)), (summary.directory.parts[1].digest, ORIGIN));
    assert!(form.layers[0].part(Part(1)).is_empty());
    assert!(matches!(inspect(&bytes), Ok(Inspection::Form(read)) if read == form));
    for at in (0..bytes.len()).step_by(97).chain(0..400).chain(bytes.len() - 80..bytes.len()) {
        let mut altered = bytes.clone();
        altered[at] ^= 1 << (at % 8);
        assert!(Form::decode(&altered).is_err(), "byte {at}");
        assert!(Form::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
}

/// A form with a good checksum may still contradict itself: whoever wrote it, readers must not believe it.
#[test]
fn a_form_that_contradicts_itself_is_refused() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[0], 20);
    let (summary, _) = build_pack(&sample);
    let good = form_of(&sample.schema, &[("pack", &summary)]).encode();
    let object = 72 + 4;
    let entry = object + 8 + 8 + 1 + 4;
    for (at, bytes, what) in [
        (64, vec![0], "no layers"),
        (64, vec![2], "a layer that is not there"),
        (64, vec![255], "too many layers"),
        (65, vec![1], "a reserved byte"),
        (63, vec![2], "an unknown filter"),
        (72, vec![255; 4], "too many objects"),
        (object, vec![1, 0, 0, 0, 0, 0, 0, 0], "an object shorter than its tail"),
        (object + 16, vec![0], "an object without a path"),
        (object + 17, vec![0xff], "a path that is not UTF-8"),
        (entry, vec![1, 0, 0, 0], "an unknown object"),
        (entry, vec![255; 4], "absent, but described"),
        (entry + 4, vec![255; 8], "an offset beyond everything"),
        (entry + 12, vec![255; 8], "a length beyond everything"),
        (entry + 12, vec![0; 8], "a length of 0"),
        (entry + 20, vec![0; 8], "no records"),
        (entry + 20, vec![255; 8], "more records than bytes"),
    ] {
        let mut altered = good[..good.len() - 8].to_vec();
        altered[at..at + bytes.len()].copy_from_slice(&bytes);
        let checksum = xxhash_rust::xxh3::xxh3_64(&altered);
        altered.extend_from_slice(&checksum.to_le_bytes());
        let error = Form::decode(&altered).expect_err(what);
        assert!(matches!(error, FormatError::Damaged { .. } | FormatError::Truncated { .. }), "{what}: {error}");
    }
}

#[test]
fn a_layer_takes_each_part_once() {
    let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(1), false), &[0, 7], 20);
    let (summary, _) = build_pack(&sample);
    let mut layer = Layer::default();
    layer.add_pack("a", &summary).expect("the first");
    assert!(matches!(layer.add_pack("b", &summary), Err(BuildError::PartOrder { .. })));
    assert!(Layer::default().add_pack("", &summary).is_err());
}

#[test]
fn a_content_id_changes_with_everything_it_stands_for() {
    let schema_a = schema(KeyType::U64, ValueType::F32(1), false);
    let schema_b = Schema { ttl: true, ..schema_a.clone() };
    let digests = vec![Digest([1; 32]); usize::from(PART_COUNT)];
    let mut other = digests.clone();
    other.swap(0, 1);
    other[0] = PartEntry::EMPTY.digest;
    let parent = content_id_full(TableUid(1), &schema_a, 5, &digests);
    let ids = [
        parent,
        content_id_full(TableUid(2), &schema_a, 5, &digests),
        content_id_full(TableUid(1), &schema_b, 5, &digests),
        content_id_full(TableUid(1), &schema_a, 6, &digests),
        content_id_full(TableUid(1), &schema_a, 5, &other),
        content_id_increment(&parent, 5, &digests),
        content_id_increment(&parent, 6, &digests),
        content_id_increment(&parent, 5, &other),
    ];
    for (index, id) in ids.iter().enumerate() {
        assert!(!ids[..index].contains(id), "id {index}");
    }
    assert_eq!(parent, content_id_full(TableUid(1), &schema_a, 5, &digests));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_tails_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), len: u64, guess: bool) {
        let len = if guess { bytes.len() as u64 } else { len };
        let _ = PackDirectory::parse(&bytes, len);
        let _ = Form::decode(&bytes);
        let _ = inspect(&bytes);
        let _ = inspect(&[&b"FKVPCK\0\0"[..], &bytes].concat());
        let _ = Form::decode(&[&b"FKVFRM\0\0"[..], &bytes].concat());
    }

    /// Directories whose checksums are good, but whose fields are not: nothing is believed, nothing overflows.
    #[test]
    fn directories_that_lie_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        object_len in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        let sample = Sample::new(&schema(KeyType::U64, ValueType::F32(16), false), &[3, 4], 30);
        let (summary, mut object) = build_pack(&sample);
        let (tail_start, footer) = (object.len() - summary.tail_len as usize, object.len() - FOOTER_BYTES);
        for (place, byte) in changes {
            let at = tail_start + place.index(summary.tail_len as usize - 16);
            object[at] = byte;
        }
        let directory_sum = xxhash_rust::xxh3::xxh3_64(&object[tail_start..footer]);
        object[footer + 40..footer + 48].copy_from_slice(&directory_sum.to_le_bytes());
        let sum = xxhash_rust::xxh3::xxh3_64(&object[footer..footer + 48]);
        object[footer + 48..footer + 56].copy_from_slice(&sum.to_le_bytes());
        let _ = inspect(&object);
        if let Ok(DirectoryRead::Ready(directory)) =
            PackDirectory::parse(&object, object_len.unwrap_or(object.len() as u64))
        {
            for part in &directory.parts {
                prop_assert!(part.range().end <= object.len() as u64);
                if let Ok(layout) = part.layout() {
                    let _ = layout.iter(data(&object, part.range()), part.part, ORIGIN).count();
                }
            }
        }
    }
}
