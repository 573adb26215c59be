//! Which parts share an arena and a local pack, and where the store has them.
//!
//! A group has the configured 128 MiB or more (if the table has): arenas of that size cost few mappings and waste little
//! of their last huge page. All its parts have one origin, because a pack has one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fkv_formats::checksum::{Origin, chunk_count};
use fkv_formats::id::{Part, TableUid, Version};
use fkv_formats::manifest::{FormObject, Layer, PartEntry};
use fkv_formats::pack::{DirectoryRead, FOOTER_BYTES, PackDirectory, PackPart};
use futures::{StreamExt, TryStreamExt};

use super::fill::Source;
use super::{LoadError, Loader};
use crate::image::arena::ArenaBuilder;

/// Parts begin at multiples of this, in arenas and in packs.
pub(super) const ALIGN: u64 = 64;
/// Bytes of a directory entry of a pack.
const ENTRY_BYTES: u64 = 80;

/// Parts that will share an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// Ascending.
    pub(super) parts: Vec<Part>,
    /// Bytes of their data, each rounded up to the alignment.
    pub(super) bytes: u64,
    origin: Version,
    /// Parts begin at multiples of this in the pack.
    align: u64,
}

impl Planned {
    /// Memory that its arena occupies.
    pub(super) fn memory_bytes(&self) -> u64 {
        ArenaBuilder::populated_bytes(self.bytes)
    }

    /// Length of a pack with its parts.
    pub(super) fn pack_bytes(&self, layer: &Layer) -> u64 {
        // A part of two sections may have one chunk more.
        let directory = self.parts.iter().map(|part| ENTRY_BYTES + 8 * (chunk_count(layer.part(*part).len) + 1));
        self.align + self.bytes + directory.sum::<u64>() + FOOTER_BYTES as u64
    }

    pub(super) const fn origin(&self, uid: TableUid) -> Origin {
        Origin { uid, version: self.origin }
    }
}

/// Divides `parts`, which are ascending and not empty, into groups that are closed at `group_bytes`. In packs, parts
/// begin at multiples of `align`.
pub(super) fn plan_groups(layer: &Layer, parts: &[Part], group_bytes: u64, align: u64) -> Vec<Planned> {
    let mut by_origin: BTreeMap<Version, Vec<Part>> = BTreeMap::new();
    for part in parts {
        by_origin.entry(layer.part(*part).origin).or_default().push(*part);
    }
    let mut groups = Vec::new();
    for (origin, parts) in by_origin {
        let mut open = Planned { parts: Vec::new(), bytes: 0, origin, align };
        for part in parts {
            // Lengths were checked to be below 2^50 when the form was read.
            open.bytes += layer.part(part).len.next_multiple_of(align);
            open.parts.push(part);
            if open.bytes >= group_bytes {
                groups.push(std::mem::replace(&mut open, Planned { parts: Vec::new(), bytes: 0, origin, align }));
            }
        }
        if !open.parts.is_empty() {
            groups.push(open);
        }
    }
    groups
}

/// Directories of store objects, by their number in the layer.
#[derive(Debug)]
pub(super) struct Directories {
    uid: TableUid,
    objects: BTreeMap<u32, (Arc<str>, PackDirectory)>,
}

/// Reads the directories of all objects that have parts of `groups`.
pub(super) async fn directories(
    loader: &Loader,
    layer: &Layer,
    groups: &[Planned],
    uid: TableUid,
) -> Result<Directories, LoadError> {
    let numbers: BTreeSet<u32> =
        groups.iter().flat_map(|planned| &planned.parts).map(|part| layer.part(*part).object).collect();
    let objects = futures::stream::iter(numbers)
        .map(|number| async move {
            let object = &layer.objects[number as usize];
            let directory = directory(loader, object).await?;
            Ok::<_, LoadError>((number, (Arc::from(object.path.as_str()), directory)))
        })
        .buffer_unordered(loader.reads)
        .try_collect()
        .await?;
    Ok(Directories { uid, objects })
}

async fn directory(loader: &Loader, object: &FormObject) -> Result<PackDirectory, LoadError> {
    let tail = loader.fetcher.range(&object.path, object.len - object.tail_len..object.len).await?;
    match PackDirectory::parse(&tail, object.len) {
        Ok(DirectoryRead::Ready(directory)) => Ok(directory),
        Ok(DirectoryRead::NeedTail(needed)) => {
            let reason = format!("its directory takes {needed} bytes, the form says {}", object.tail_len);
            Err(LoadError::Foreign { path: object.path.clone(), reason })
        }
        Err(error) => Err(LoadError::Object { path: object.path.clone(), error }),
    }
}

impl Directories {
    /// Where `entry`'s object has `part`.
    pub(super) fn find(&self, part: Part, entry: &PartEntry) -> Result<(Source, &PackPart), LoadError> {
        let (path, directory) = &self.objects[&entry.object];
        match matching(directory, part, entry, self.uid) {
            Some(found) if found.range() == (entry.offset..entry.offset + entry.len) => {
                Ok((Source::Object(Arc::clone(path)), found))
            }
            _ => {
                let reason = format!("part {part} is not the one that the form describes");
                Err(LoadError::Foreign { path: path.to_string(), reason })
            }
        }
    }
}

/// The entry of `part` in a pack's directory, if it is the content that the form's entry describes.
pub(super) fn matching<'d>(
    directory: &'d PackDirectory,
    part: Part,
    entry: &PartEntry,
    uid: TableUid,
) -> Option<&'d PackPart> {
    let found = directory.part(part)?;
    let same = directory.origin == entry.origin(uid)
        && found.digest == entry.digest
        && found.len() == entry.len
        && found.records() == entry.records;
    same.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_large_ascending_and_of_one_origin() {
        let mut layer = Layer::default();
        for (number, entry) in layer.parts.iter_mut().enumerate() {
            entry.object = 0;
            entry.len = (1 << 20) - 1;
            entry.origin = Version(if number % 3 == 0 { 7 } else { 8 });
        }
        let parts: Vec<Part> = (0..600).map(Part).collect();
        let groups = plan_groups(&layer, &parts, 128 << 20, ALIGN);
        let mut seen: Vec<Part> = groups.iter().flat_map(|planned| planned.parts.clone()).collect();
        seen.sort();
        assert_eq!(seen, parts);
        for planned in &groups {
            assert!(planned.parts.is_sorted());
            assert!(planned.parts.iter().all(|part| layer.part(*part).origin == planned.origin));
            assert_eq!(planned.bytes, planned.parts.len() as u64 * (1 << 20));
            assert!(planned.pack_bytes(&layer) > planned.bytes + 80 * planned.parts.len() as u64);
        }
        assert_eq!(groups.iter().filter(|planned| planned.bytes >= 128 << 20).count(), 1 + 3);
        assert!(plan_groups(&layer, &[], 1, ALIGN).is_empty());
    }
}
