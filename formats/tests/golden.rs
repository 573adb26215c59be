//! Golden files: builders reproduce them byte for byte, readers read them. Those below `testdata/v1` pin format version 1,
//! which is frozen: they are never written again. `FKV_BLESS=1` writes golden files that are not there yet, with a list of
//! what is in them for `version_1.rs`, and what is not frozen anew.

#![allow(clippy::disallowed_methods, reason = "golden files are files")]

mod samples;

use std::fmt::Write as _;
use std::path::Path;

use fkv_formats::checksum::verify_part;
use fkv_formats::inspect::{Inspection, inspect};
use fkv_formats::manifest::Form;
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::schema::KeyType;
use fkv_formats::table::PartLayout;
use fkv_formats::table::mem::{Probe, Shape};
use fkv_formats::value::ValueCodec;
use samples::{ORIGIN, PROFILE_1, Sample, build_pack, form_of};

/// The stored bytes of a golden file, which `built` must equal.
fn golden(name: &str, built: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let is_frozen = name.starts_with("v1/") && path.exists();
    if std::env::var_os("FKV_BLESS").is_some() && !is_frozen {
        std::fs::write(&path, built).expect("the golden file can be written");
    }
    let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let differs = stored.iter().zip(built).position(|(a, b)| a != b);
    let rule = if is_frozen { "; other bytes take another format version" } else { "" };
    assert!(stored == built, "{name}: the builder's bytes differ, first at {differs:?}{rule}");
    stored
}

/// What a reader must find in the pack of a sample, taken from the sample itself: table, schema and profile in the first
/// line; then a line for every record in its order: key, expiry, and the value as clients see it.
fn contents(sample: &Sample) -> Vec<u8> {
    let (schema, profile) = (&sample.schema, sample.profile);
    let mut text = format!(
        "table {} version {} kind {} key {} value {} storage {} overflow {} ttl {} load {} codec {} filter {}\n",
        ORIGIN.uid.0,
        ORIGIN.version.0,
        schema.kind,
        schema.key,
        schema.value,
        schema.storage,
        schema.f16_overflow,
        schema.ttl,
        profile.load_permille,
        profile.codec,
        profile.filter,
    );
    let codec = ValueCodec::new(schema);
    for record in sample.records() {
        match record.key {
            Key::U64(key) => write!(text, "{key}"),
            Key::Bytes(key) => write!(text, "{}", hex(key)),
        }
        .expect("strings take all");
        let mut served = Vec::new();
        codec.serve(record.value.expect("no tombstones"), &mut served).expect("a stored value");
        writeln!(text, " {} {}", record.expiry, hex(&served)).expect("strings take all");
    }
    text.into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() { "-".to_owned() } else { bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
}

#[test]
fn packs_are_built_as_before_and_read() {
    for sample in Sample::golden() {
        let object = golden(&format!("v1/{}.pack", sample.name), &build_pack(&sample).1);
        golden(&format!("v1/{}.txt", sample.name), &contents(&sample));
        let Ok(Inspection::Pack(pack)) = inspect(&object) else { panic!("{} is a pack", sample.name) };
        assert!(pack.is_sound(), "{}", sample.name);
        assert_eq!((pack.directory.origin, &pack.directory.schema), (ORIGIN, &sample.schema));
        for record in sample.records() {
            let part = pack.directory.part(record.part()).expect("the pack has the part");
            let image = &object[part.range().start as usize..part.range().end as usize];
            verify_part(image, part, ORIGIN).expect("a sound part");
            let found = part.mem_layout().expect("a sound header").find(image, record.h, record.key);
            let found = found.unwrap_or_else(|| panic!("{record:?} is lost"));
            assert_eq!((Some(found.value), found.expiry), (record.value, record.expiry));
        }
    }
}

#[test]
fn packs_on_disk_are_built_as_before_and_read() {
    for sample in Sample::golden_on_disk() {
        let object = golden(&format!("v1/{}.pack", sample.name), &build_pack(&sample).1);
        golden(&format!("v1/{}.txt", sample.name), &contents(&sample));
        let Ok(Inspection::Pack(pack)) = inspect(&object) else { panic!("{} is a pack", sample.name) };
        assert!(pack.is_sound(), "{}: {pack:?}", sample.name);
        assert_eq!((pack.directory.origin, &pack.directory.schema), (ORIGIN, &sample.schema));
        assert_eq!(pack.directory.profile, sample.profile);
        let mut records = sample.records().into_iter();
        for part in &pack.directory.parts {
            assert!(part.offset.is_multiple_of(4096), "blocks are read from whole pages");
            let data = &object[part.range().start as usize..part.range().end as usize];
            let layout = part.layout().expect("a sound header");
            for read in layout.iter(data, part.part, ORIGIN) {
                assert_eq!(Some(read.expect("a sound part")), records.next());
            }
        }
        assert_eq!(records.next(), None);
    }
}

/// The golden files on disk hold every way their parts can be laid out.
#[test]
fn golden_packs_on_disk_cover_every_geometry() {
    let (mut probes, mut filters, mut directories, mut long_runs) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for sample in Sample::golden_on_disk() {
        let Ok(Inspection::Pack(pack)) = inspect(&build_pack(&sample).1) else { panic!("a pack") };
        for part in pack.parts {
            long_runs += part.blocks.long_runs;
            match part.layout.expect("a sound header") {
                PartLayout::Mem(_) => panic!("a table on disk"),
                PartLayout::Idx(layout) => probes.push(layout.probe()),
                PartLayout::Blk(layout) => {
                    filters.push(layout.filter_len() > 0);
                    directories.push(layout.index_len() > u64::from(layout.blocks()) * 4);
                }
            }
        }
    }
    assert!(probes.contains(&Probe::Scan) && probes.contains(&Probe::Sorted));
    assert!(filters.contains(&true) && filters.contains(&false));
    assert!(directories.contains(&true) && directories.contains(&false));
    assert!(long_runs >= 4, "{long_runs} runs of several blocks");
}

/// The golden files hold every way a memory part can be laid out.
#[test]
fn golden_packs_cover_every_geometry() {
    let mut seen: Vec<(Shape, Probe, bool, bool)> = Vec::new();
    for sample in Sample::golden() {
        for part in build_pack(&sample).0.directory.parts {
            let layout = part.mem_layout().expect("a sound header");
            let is_bytes = layout.key_type() == KeyType::Bytes;
            seen.push((layout.shape(), layout.probe(), is_bytes, layout.h_bytes() == 6));
        }
    }
    for probe in [Probe::Scan, Probe::Sorted] {
        for (shape, is_bytes) in
            [(Shape::Inline, false), (Shape::Dense, false), (Shape::Heap, false), (Shape::Heap, true)]
        {
            assert!(seen.contains(&(shape, probe, is_bytes, false)), "{shape:?}, {probe:?}, {is_bytes}");
        }
    }
    assert!(seen.contains(&(Shape::Inline, Probe::Scan, false, true)));
}

#[test]
fn a_form_is_written_as_before_and_read() {
    let sample = Sample::golden().remove(0);
    let (summary, _) = build_pack(&sample);
    let form = form_of(&sample.schema, &[("tables/1/pack-00000", &summary)]);
    let form = Form { profile: PROFILE_1, ..form };
    assert_eq!(Form::decode(&golden("v1/full.form", &form.encode())), Ok(form));
}

#[test]
fn records_are_encoded_as_before_and_read() {
    for (key_type, name) in [(KeyType::U64, "u64.records"), (KeyType::Bytes, "bytes.records")] {
        let key = match key_type {
            KeyType::U64 => Key::U64(0x0102_0304_0506_0708),
            KeyType::Bytes => Key::Bytes(b"user:42"),
        };
        let records = [
            RecordRef::new(key, 0, Some(b"value")),
            RecordRef::new(key, 1_700_000_000, Some(&[7; 300])),
            RecordRef::new(key, 0, None),
            RecordRef::new(key, 0, Some(b"")),
        ];
        let mut built = Vec::new();
        records.iter().for_each(|record| record.encode(&mut built));
        let stored = golden(name, &built);
        let mut rest = &stored[..];
        for record in records {
            let (read, len) = RecordRef::decode(rest, key_type).expect("a sound record");
            assert_eq!(read, record);
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
    }
}
