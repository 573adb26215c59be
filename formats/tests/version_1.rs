//! Files of format version 1 stay readable: golden files and lists of what is in them, both kept for good, read without
//! any builder. Whatever this build writes, it finds every record in them, and no other.

use std::collections::BTreeSet;
use std::path::Path;

use fkv_formats::checksum::{Origin, verify_part};
use fkv_formats::error::FormatError;
use fkv_formats::hash::unhash_u64;
use fkv_formats::id::{PART_COUNT, Part, TableUid, Version};
use fkv_formats::inspect::inspect;
use fkv_formats::manifest::{Form, content_id_full};
use fkv_formats::pack::{DirectoryRead, PackDirectory};
use fkv_formats::record::Key;
use fkv_formats::schema::{KeyType, Schema};
use fkv_formats::table::disk::Run;
use fkv_formats::table::{PartLayout, Profile};
use fkv_formats::value::ValueCodec;

/// The golden packs of version 1. None is ever taken out.
const PACKS: [&str; 21] = [
    "blk-bytes-bytes-colliding",
    "blk-bytes-f16x50-ttl",
    "blk-u64-bytes",
    "blk-u64-bytes-filtered",
    "blk-u64-f32x510-ttl-filtered",
    "bytes-bytes",
    "bytes-bytes-colliding",
    "bytes-f16x3-ttl",
    "idx-bytes-bytes-colliding",
    "idx-bytes-bytes-ttl",
    "idx-u64-f32-sorted",
    "idx-u64-f32x16",
    "u64-bytes",
    "u64-bytes-sorted",
    "u64-f32",
    "u64-f32-large",
    "u64-f32-sorted",
    "u64-f32x32-as-f16",
    "u64-f32x5-sorted",
    "u64-f32x5-ttl",
    "u64-i64-ttl",
];

#[allow(clippy::disallowed_methods, reason = "golden files are files")]
fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a pack must hold, from its list.
struct Contents {
    origin: Origin,
    schema: Schema,
    profile: Profile,
    records: Vec<Record>,
}

#[derive(Debug, PartialEq, Eq)]
struct Record {
    key: OwnedKey,
    expiry: u32,
    served: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OwnedKey {
    U64(u64),
    Bytes(Vec<u8>),
}

impl OwnedKey {
    fn of(key: Key<'_>) -> Self {
        match key {
            Key::U64(key) => Self::U64(key),
            Key::Bytes(key) => Self::Bytes(key.to_vec()),
        }
    }

    fn as_key(&self) -> Key<'_> {
        match self {
            Self::U64(key) => Key::U64(*key),
            Self::Bytes(key) => Key::Bytes(key),
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = if text == "-" { "" } else { text };
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits")).collect()
}

/// Reads a list: pairs of words in the first line, then `key expiry value` in every line.
fn contents(text: &str) -> Contents {
    fn word<'a>(header: &[&'a str], name: &str) -> &'a str {
        header.chunks(2).find(|pair| pair[0] == name).unwrap_or_else(|| panic!("{name} is in the first line"))[1]
    }
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a first line").split(' ').collect();
    let number = |name| word(&header, name).parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number"));
    let schema = Schema {
        kind: word(&header, "kind").parse().expect("a kind"),
        key: word(&header, "key").parse().expect("a key type"),
        value: word(&header, "value").parse().expect("a value type"),
        storage: word(&header, "storage").parse().expect("a storage"),
        f16_overflow: word(&header, "overflow").parse().expect("a policy"),
        ttl: word(&header, "ttl").parse().expect("true or false"),
    };
    let (load_permille, codec) = (number("load") as u16, number("codec") as u8);
    let profile = Profile { format: 1, load_permille, codec, filter: number("filter") as u8 };
    let origin = Origin { uid: TableUid(number("table")), version: Version(number("version")) };
    let record = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [key, expiry, value] = fields[..] else { panic!("`{line}` has three fields") };
        let key = match schema.key {
            KeyType::U64 => OwnedKey::U64(key.parse().expect("a number")),
            KeyType::Bytes => OwnedKey::Bytes(unhex(key)),
        };
        Record { key, expiry: expiry.parse().expect("a number"), served: unhex(value) }
    };
    let records = lines.map(record).collect();
    Contents { origin, schema, profile, records }
}

/// Looks a key up as servers do: in a memory image, or through the resident section in one run.
fn look_up(layout: &PartLayout, data: &[u8], part: Part, origin: Origin, key: Key<'_>) -> Option<(Vec<u8>, u32)> {
    let h = key.hash();
    let (blocks, resident) = data.split_at(layout.block_len() as usize);
    let runs: Vec<_> = match layout {
        PartLayout::Mem(layout) => {
            return layout.find(data, h, key).map(|found| (found.value.to_vec(), found.expiry));
        }
        PartLayout::Idx(layout) => layout.candidates(resident, h).collect(),
        PartLayout::Blk(layout) => layout.locate(resident, h).into_iter().collect(),
    };
    let spec = layout.record_spec().expect("a table on disk");
    runs.into_iter().find_map(|read| {
        let bytes = &blocks[read.range().start as usize..read.range().end as usize];
        let run = Run::verify(bytes, origin, part, read.first).expect("a sound run");
        run.find(&spec, h, key).map(|found| (found.value.to_vec(), found.expiry))
    })
}

/// Keys of `part` that `contents` does not have: neighbours of those it has, some with the hash of one it has, and others.
fn absent_keys(contents: &Contents, part: Part) -> Vec<OwnedKey> {
    let present: BTreeSet<&OwnedKey> = contents.records.iter().map(|record| &record.key).collect();
    let neighbours = |key: &&OwnedKey| match key {
        OwnedKey::U64(key) => {
            let h = Key::U64(*key).hash();
            let near = [1, 700].into_iter().flat_map(|step| [h.wrapping_sub(step), h.wrapping_add(step)]);
            near.map(|h| OwnedKey::U64(unhash_u64(h))).collect::<Vec<_>>()
        }
        // The keys of 32 bytes here have one hash, whatever is in the middle.
        OwnedKey::Bytes(key) if key.len() == 32 => vec![OwnedKey::Bytes([&key[..8], &[0xff; 8], &key[16..]].concat())],
        OwnedKey::Bytes(_) => Vec::new(),
    };
    let others = |number| OwnedKey::Bytes(format!("absent:{number}").into_bytes());
    let others = (0..200_000).filter(|_| contents.schema.key == KeyType::Bytes).map(others);
    let is_absent = |key: &OwnedKey| fkv_formats::route::part_of(key.as_key().hash()) == part && !present.contains(key);
    present.iter().flat_map(neighbours).chain(others).filter(is_absent).collect()
}

#[test]
fn every_record_of_a_pack_of_version_1_is_found_for_ever() {
    let mut records = 0;
    for name in PACKS {
        let object = read(&format!("v1/{name}.pack"));
        let text = String::from_utf8(read(&format!("v1/{name}.txt"))).expect("text");
        let expected = contents(&text);
        let parsed =
            PackDirectory::parse(&object, object.len() as u64).unwrap_or_else(|error| panic!("{name}: {error}"));
        let DirectoryRead::Ready(directory) = parsed else { panic!("{name}: the whole object was given") };
        assert_eq!((directory.origin, &directory.schema), (expected.origin, &expected.schema), "{name}");
        assert_eq!(directory.profile, expected.profile, "{name}");
        directory.verify_gaps(&object).unwrap_or_else(|error| panic!("{name}: {error}"));

        let codec = ValueCodec::new(&directory.schema);
        let serve = |stored: &[u8]| {
            let mut served = Vec::new();
            codec.serve(stored, &mut served).expect("a stored value");
            served
        };
        let mut listed = Vec::new();
        let mut absent = 0;
        for part in &directory.parts {
            let layout = part.layout().unwrap_or_else(|error| panic!("{name}: {error}"));
            layout.matches(&directory.schema).unwrap_or_else(|error| panic!("{name}: {error}"));
            let data = &object[part.range().start as usize..part.range().end as usize];
            verify_part(data, part, expected.origin).unwrap_or_else(|error| panic!("{name}: {error}"));
            for record in layout.iter(data, part.part, expected.origin) {
                let record = record.unwrap_or_else(|error| panic!("{name}: {error}"));
                let served = serve(record.value.expect("no tombstones in a full form"));
                listed.push(Record { key: OwnedKey::of(record.key), expiry: record.expiry, served });
            }
            for key in absent_keys(&expected, part.part) {
                assert_eq!(look_up(&layout, data, part.part, expected.origin, key.as_key()), None, "{name}: {key:?}");
                absent += 1;
            }
        }
        assert_eq!(listed, expected.records, "{name}");
        assert!(absent >= 20, "{name}: {absent} absent keys");
        for record in &expected.records {
            let key = record.key.as_key();
            let part = fkv_formats::route::part_of(key.hash());
            let entry = directory.part(part).unwrap_or_else(|| panic!("{name}: part {part} is there"));
            let data = &object[entry.range().start as usize..entry.range().end as usize];
            let found = look_up(&entry.layout().expect("read above"), data, part, expected.origin, key);
            let (stored, expiry) = found.unwrap_or_else(|| panic!("{name}: {key:?} is lost"));
            assert_eq!((serve(&stored), expiry), (record.served.clone(), record.expiry), "{name}: {key:?}");
        }
        records += expected.records.len();
    }
    assert_eq!(records, 7177, "no list was shortened");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1");
    #[allow(clippy::disallowed_methods, reason = "golden files are files")]
    let files = std::fs::read_dir(dir).expect("a directory").map(|file| file.expect("a file").file_name());
    let packs = files.filter(|file| file.to_string_lossy().ends_with(".pack")).count();
    assert_eq!(packs, PACKS.len(), "every golden pack is read above");
}

#[test]
fn a_form_of_version_1_is_read_for_ever() {
    let form = Form::decode(&read("v1/full.form")).expect("a sound form");
    assert_eq!((form.uid, form.as_of), (TableUid(0x1234_5678_9abc), 1_700_000_000));
    assert_eq!(form.content.to_string(), CONTENT);
    assert_eq!(content_id_full(form.uid, &form.schema, form.as_of, &form.layers[0].digests()), form.content);
    let schema = form.schema.to_bytes();
    assert_eq!(schema, [1, 0, 2, 0, 0, 0, 1, 0], "mem, u64 to f32");
    assert_eq!(form.profile, Profile { format: 1, load_permille: 900, codec: 0, filter: 0 });
    let [layer] = &form.layers[..] else { panic!("one layer") };
    let [object] = &layer.objects[..] else { panic!("one object") };
    assert_eq!((object.path.as_str(), object.len, object.tail_len), ("tables/1/pack-00000", 1160, OBJECT_TAIL));
    for part in (0..PART_COUNT).map(Part) {
        let entry = layer.part(part);
        let Some((_, offset, digest)) = PARTS.iter().find(|(number, ..)| *number == part.0) else {
            assert!(entry.is_empty(), "part {part}");
            continue;
        };
        assert_eq!((entry.object, entry.offset, entry.len, entry.records), (0, *offset, 256, 13), "part {part}");
        assert_eq!((entry.digest.to_string().as_str(), entry.origin), (*digest, Version(3)), "part {part}");
    }
    // What the form says is where it says.
    let object = read("v1/u64-f32.pack");
    assert_eq!(object.len(), 1160);
    let tail = &object[object.len() - OBJECT_TAIL as usize..];
    let Ok(DirectoryRead::Ready(directory)) = PackDirectory::parse(tail, object.len() as u64) else {
        panic!("its pack")
    };
    for part in &directory.parts {
        let entry = layer.part(part.part);
        assert_eq!((entry.offset, entry.len, entry.digest), (part.offset, part.len(), part.digest));
    }
}

const CONTENT: &str = "014202683f27d518e22a82a26e895cd5262481f866a4b2a2cb225f78ac0ae731";
const OBJECT_TAIL: u64 = 328;
/// Number, offset and digest of the parts.
const PARTS: [(u16, u64, &str); 3] = [
    (0, 64, "720e8eee2ae5eaaea1d3142c63528e546469090fd2a4ce87cfa0ceed538be1de"),
    (1, 320, "8702dd8c1a106c5e656a46b235ae87644a5143878685d81877521f6c72d9433d"),
    (2399, 576, "96a9449a882bfe1decb7397ef146e58bf72eca40cdcfa14d7577e91ba26721e0"),
];

/// Version 0 was never frozen. Its files are told from damaged ones, and the reason says what to do.
#[test]
fn files_of_version_0_are_refused_with_a_reason() {
    let pack = read("v0/u64-f32.pack");
    let refused = [
        ("pack", PackDirectory::parse(&pack, pack.len() as u64).expect_err("refused")),
        ("pack", inspect(&pack).expect_err("refused")),
        ("form", {
            let mut form = read("v1/full.form");
            form[6..8].fill(0);
            Form::decode(&form).expect_err("refused")
        }),
        ("build profile", Profile { format: 0, ..Profile::CURRENT }.check().expect_err("refused")),
    ];
    for (what, error) in refused {
        assert!(matches!(error, FormatError::Version { found: 0, .. }), "{error:?}");
        assert!(!error.is_newer_format());
        let message = error.to_string();
        assert!(message.starts_with(&format!("the {what} has format version 0, this build reads 1")), "{message}");
        assert!(message.ends_with("load the table again"), "{message}");
    }
}
