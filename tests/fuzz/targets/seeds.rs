//! Writes the first inputs of every target, made of golden files: `fuzz-seeds DIRECTORY` puts them in a directory per target.
//! From these a corpus grows; see run.sh.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fkv_formats::id::{ContentId, Epoch, TableUid, Version};
use fkv_formats::pack::PackPart;
use fkv_formats::schema::ValueType;
use fkv_fuzz::PACKS;
use fkv_fuzz::packed::{
    HeldContent, KeyStatus, ReplyHeader, ReplyWriter, RequestHeader, RequestWriter, SectionHeader, SectionLabel,
    SectionStatus, Selector, Shown, ValueForm,
};

/// Names no golden file: the rest of the input is raw.
const RAW: u8 = 254;

fn main() -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("name the directory for the seeds"));
    };
    for (number, object) in PACKS.iter().enumerate() {
        let directory = fkv_fuzz::directory(object);
        let number = number as u8;
        let tail = directory.parts.last().map_or(64, |part| part.range().end.next_multiple_of(64)) as usize;
        seed(&dir, "pack", &[&[number, 0], &40u16.to_le_bytes()])?;
        seed(&dir, "directory", &[&[0], &(object.len() as u64).to_le_bytes(), &object[tail..]])?;
        if object.len() < 4000 {
            seed(&dir, "pack", &[&[RAW, 0, 0, 1], object])?;
            seed(&dir, "directory", &[&[3], &[0; 8], object])?;
        }
        for part in &directory.parts {
            raw_part(&dir, object, part)?;
        }
    }
    for kind in ["mem", "idx", "blk"] {
        for number in 0..24u8 {
            seed(&dir, kind, &[&[number, 0, 0]])?;
        }
    }
    slices(&dir)?;
    form(&dir)?;
    for (name, key_type) in [("u64.records", 0), ("bytes.records", 1)] {
        let records = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../formats/testdata").join(name))?;
        seed(&dir, "record", &[&[key_type], &records])?;
    }
    values(&dir)?;
    names(&dir)?;
    metadata(&dir)?;
    requests(&dir)?;
    replies(&dir)?;
    builds(&dir)
}

/// Writes one input, in a file that is named by its number.
fn seed(dir: &Path, target: &str, pieces: &[&[u8]]) -> io::Result<()> {
    let dir = dir.join(target);
    fs::create_dir_all(&dir)?;
    let number = fs::read_dir(&dir)?.count();
    fs::write(dir.join(format!("seed-{number:03}")), pieces.concat())
}

fn raw_part(dir: &Path, object: &[u8], part: &PackPart) -> io::Result<()> {
    let data = &object[part.range().start as usize..part.range().end as usize];
    let kind = ["mem", "idx", "blk"][usize::from(part.header[0]) - 1];
    if data.len() > 9000 {
        return Ok(());
    }
    seed(dir, kind, &[&[RAW], &part.part.0.to_le_bytes(), &part.header, data])
}

/// The golden slices, with a patch to come; and slices of a part or two, of every kind.
fn slices(dir: &Path) -> io::Result<()> {
    for base in 0..2u8 {
        seed(dir, "slice", &[&[base, 0, 0]])?;
        seed(dir, "slice", &[&[base, 0, 1, 8, 40, 0, 1]])?;
    }
    for what in 0..32u8 {
        // Records of zeros: a hash or a key of no length, no place, no expiry, a value of zeros or of no length.
        let zeros = [0; 28];
        let len = match (what & 7, what >> 4) {
            (0, places) => 12 + 4 * places,
            (1, places) => 16 + 4 * places,
            (2, places) => 9 + 4 * places,
            (3, places) => 18 + 4 * places,
            (4, places) => 9 + 4 * places,
            (5, places) => 6 + 4 * places,
            (6, places) => 2 + 4 * places,
            (_, places) => 13 + 4 * places,
        } + (what >> 3 & 1);
        let record = &zeros[..usize::from(len)];
        seed(dir, "slice", &[&[2, what, 0, 1, 1, 1, len], record])?;
        if what & 7 < 4 {
            // Two chunks, and a second part.
            let at = usize::from(what >> 3 & 1);
            let (mut above, mut behind) = (record.to_vec(), record.to_vec());
            (above[at], behind[at + 7]) = (1, 0x80);
            let head = [1, len];
            seed(dir, "slice", &[&[2, what, 0, 2, 2], &head, record, &head, &above, &[1], &head, &behind])?;
        }
    }
    Ok(())
}

/// The golden form, written as the target's input.
fn form(dir: &Path) -> io::Result<()> {
    let form = include_bytes!("../../../formats/testdata/v1/full.form");
    let path = b"tables/1/pack-00000";
    let mut layer = vec![1];
    layer.extend_from_slice(&form[76..92]);
    layer.push(path.len() as u8);
    layer.extend_from_slice(path);
    let entries = &form[76 + 16 + 1 + path.len()..];
    layer.push(3);
    for part in [0u16, 1, 2399] {
        layer.extend_from_slice(&part.to_le_bytes());
        layer.extend_from_slice(&entries[usize::from(part) * 68..][..68]);
    }
    seed(dir, "form", &[&[0], &form[8..72], &layer])?;
    // A chain of two layers.
    let mut fields = form[8..72].to_vec();
    fields[56] = 2;
    seed(dir, "form", &[&[0], &fields, &layer, &layer])?;
    seed(dir, "form", &[&[1], &form[..400]])
}

fn values(dir: &Path) -> io::Result<()> {
    for object in PACKS {
        let directory = fkv_fuzz::directory(object);
        let schema = &directory.schema;
        let width = schema.stored_width().unwrap_or(11).min(200);
        seed(dir, "value", &[&schema.to_bytes(), &vec![0x3c; width]])?;
    }
    seed(dir, "value", &[&[1, 0, 2, 1, 1, 0, 2, 0], &[0, 0x7c, 0x01, 0x7e]])
}

fn names(dir: &Path) -> io::Result<()> {
    let attempt = "tables/00000000000000ab/tasks/00000000000000000007/@task/0000000002-000000000000001f/";
    for object in ["inputs", "plan", "form", "slice", "pack-00012", "bad-rows", "output"] {
        seed(dir, "names", &[attempt.as_bytes(), object.as_bytes()])?;
    }
    for word in
        ["bytes", "i64", "f32", "f32[16]", "f16[768]", "mem", "idx", "blk", "u64", "a/12", "18446744073709551615"]
    {
        seed(dir, "names", &[word.as_bytes()])?;
    }
    seed(dir, "names", &["0123456789abcdef".repeat(4).as_bytes()])
}

fn metadata(dir: &Path) -> io::Result<()> {
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../formats/meta/testdata/records");
    let kinds = [
        "topology",
        "table",
        "dropped-table",
        "version",
        "task",
        "submit",
        "job",
        "lock",
        "progress",
        "claim",
        "report",
        "worker",
    ];
    let mut files: Vec<PathBuf> =
        fs::read_dir(records)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        let name = file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let kind =
            kinds.iter().position(|kind| name.starts_with(&format!("{kind}-"))).expect("a record of a known kind");
        seed(dir, "metadata", &[&[kind as u8], &fs::read(file)?])?;
    }
    for key in [
        "topology",
        "alignments",
        "tables/user_score",
        "dropped/00000000000000ab",
        "versions/00000000000000ab/00000000000000000007",
        "tasks/00000000000000ab/00000000000000000007",
        "submits/00000000000000ab/6162",
        "jobs/00000000000000ab/00000000000000000007/build",
        "locks/00000000000000ab/00000000000000000007/@task",
        "progress/00000000000000ab/00000000000000000007",
        "claims/a/00003",
        "reports/a/00003",
        "workers/w1",
    ] {
        seed(dir, "metadata", &[&[12], key.as_bytes()])?;
    }
    Ok(())
}

fn requests(dir: &Path) -> io::Result<()> {
    let header = RequestHeader { canary: false, generation: 7, read_ts_ms: 1_700_000_000_000 };
    let selectors = [Selector::Aligned, Selector::Content(ContentId([9; 32])), Selector::Version(Version(4))];
    for (selector, form) in selectors.into_iter().zip([ValueForm::Native, ValueForm::F32, ValueForm::F16]) {
        let section = SectionHeader { table: TableUid(16), selector, form };
        let mut writer = RequestWriter::new(header, 1000);
        writer.u64_section(section, [1u64, 2, 3, u64::MAX].into_iter());
        let keys: [&[u8]; 3] = [b"user:1", b"", b"user:22"];
        writer.bytes_section(section, 13, keys.into_iter());
        writer.u64_section(section, [].into_iter());
        seed(dir, "request", &[&writer.finish()])?;
    }
    let mut writer = RequestWriter::new(RequestHeader { canary: true, ..header }, 100);
    writer.u64_section(
        SectionHeader { table: TableUid(1), selector: Selector::Aligned, form: ValueForm::Native },
        [5].into_iter(),
    );
    seed(dir, "request", &[&writer.finish()])
}

fn replies(dir: &Path) -> io::Result<()> {
    let shown = Some(Shown { version: Version(3), content: ContentId([7; 32]), epoch: Epoch(9) });
    let other = Some(HeldContent { version: Version(2), content: ContentId([6; 32]) });
    let label = SectionLabel { table: TableUid(16), served: shown, aligned: shown, other, as_of_s: 1_700_000_000 };
    let header = ReplyHeader { generation: 7, server_ms: 1_700_000_000_000 };
    let types = [ValueType::F32(1), ValueType::F32(3), ValueType::F16(2), ValueType::I64];
    for value_type in types {
        let mut writer = ReplyWriter::new(header, 1000, 1 << 20);
        let mut dense = writer.dense(label, value_type, 5).expect("it fits");
        dense.found().fill(1);
        dense.missing(KeyStatus::Absent);
        dense.missing(KeyStatus::Expired);
        dense.found().fill(2);
        dense.missing(KeyStatus::NotHere);
        dense.finish();
        writer.refuse(SectionLabel::unknown(TableUid(5)), SectionStatus::UnknownTable);
        seed(dir, "reply", &[&writer.finish()])?;
    }
    let mut writer = ReplyWriter::new(header, 1000, 1 << 20);
    let mut variable = writer.variable(label, 6).expect("it fits");
    for value in [&b"value"[..], b"", b"another value"] {
        variable.found(value).expect("it fits");
        variable.missing(KeyStatus::Absent);
    }
    variable.finish();
    seed(dir, "reply", &[&writer.finish()])
}

fn builds(dir: &Path) -> io::Result<()> {
    for schema in 0..12 {
        for value in 0..5 {
            let records: Vec<u8> = (0..40u8).flat_map(|i| [i * 3 % 40, i, i]).collect();
            seed(dir, "build", &[&[schema | value << 4, 228, schema & 1], &records])?;
        }
        let colliding: Vec<u8> = (0..160u8).flat_map(|i| [230, i, 0, 20, 0]).collect();
        seed(dir, "build", &[&[schema | 4, 228, 1], &colliding])?;
        let clustered: Vec<u8> = (0..200u8).flat_map(|i| [1, i % 30]).collect();
        seed(dir, "build", &[&[schema & 3, 228, 1], &clustered])?;
    }
    Ok(())
}
