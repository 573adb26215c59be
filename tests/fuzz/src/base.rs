//! Golden packs of version 1, the sound files that patches are made to.

use std::sync::LazyLock;

use fkv_formats::checksum::Origin;
use fkv_formats::id::{Part, TableUid, Version};
use fkv_formats::pack::{DirectoryRead, PackDirectory};
use fkv_formats::table::PartHeader;

/// The origin of all golden packs.
pub const ORIGIN: Origin = Origin { uid: TableUid(0x1234_5678_9abc), version: Version(3) };

macro_rules! golden {
    ($($name:literal),+ $(,)?) => {
        &[$(include_bytes!(concat!("../../../formats/testdata/v1/", $name, ".pack")).as_slice()),+]
    };
}

/// Whole packs of every kind. Inputs name them by number: new ones go to the end.
pub const PACKS: &[&[u8]] = golden![
    "u64-f32",
    "u64-i64-ttl",
    "u64-f32x32-as-f16",
    "u64-f32x5-ttl",
    "u64-bytes",
    "bytes-f16x3-ttl",
    "bytes-bytes",
    "u64-f32-sorted",
    "u64-f32x5-sorted",
    "u64-bytes-sorted",
    "bytes-bytes-colliding",
    "u64-f32-large",
    "idx-u64-f32x16",
    "idx-bytes-bytes-ttl",
    "idx-u64-f32-sorted",
    "idx-bytes-bytes-colliding",
    "blk-u64-bytes",
    "blk-u64-bytes-filtered",
    "blk-bytes-f16x50-ttl",
    "blk-bytes-bytes-colliding",
    "blk-u64-f32x510-ttl-filtered",
];

/// One part of a golden pack.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) part: Part,
    pub(crate) header: PartHeader,
    pub(crate) data: &'static [u8],
}

/// Reads the directory of a golden pack.
#[must_use]
pub fn directory(object: &[u8]) -> PackDirectory {
    match PackDirectory::parse(object, object.len() as u64) {
        Ok(DirectoryRead::Ready(directory)) => directory,
        other => panic!("a golden pack is sound: {other:?}"),
    }
}

/// First and last part of every golden pack whose parts have this kind's number.
pub(crate) fn parts(kind: u8) -> &'static [Base] {
    static PARTS: LazyLock<[Vec<Base>; 3]> = LazyLock::new(|| {
        [1, 2, 3].map(|kind| {
            let mut bases = Vec::new();
            for object in PACKS {
                let parts = directory(object).parts;
                let parts =
                    if parts.len() == 1 { &parts[..] } else { &[parts[0].clone(), parts[parts.len() - 1].clone()] };
                bases.extend(parts.iter().filter(|part| part.header[0] == kind).map(|part| Base {
                    part: part.part,
                    header: part.header,
                    data: &object[part.range().start as usize..part.range().end as usize],
                }));
            }
            bases
        })
    });
    &PARTS[usize::from(kind) - 1]
}
