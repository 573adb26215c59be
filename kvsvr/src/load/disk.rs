//! Loads the parts of a table whose records are on SSD: blocks end up in local packs, resident sections in memory.
//!
//! ```text
//!   local packs ── resident sections only ─────────────────────────┐   (blocks are verified at every read)
//!   store packs ── whole parts ─▶ passing arena, verified ─┬─ copy ─┴─▶ resident arena, one per load
//!                                                          └─▶ local pack: tmp → fsync → rename ─▶ open for reads
//! ```
//!
//! Passing arenas hold a group each, and at most two at once: one is written to disk while the next is filled.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use fkv_formats::checksum::Origin;
use fkv_formats::id::Part;
use fkv_formats::manifest::Layer;
use fkv_formats::pack::{PackPart, part_alignment};

use super::fill::{self, PartJob};
use super::group::{self, ALIGN, Planned, plan_groups};
use super::local::{GroupPart, LocalPack, LocalPacks, WrittenPack};
use super::{LoadError, Work};
use crate::image::arena::{ArenaBuilder, Region};
use crate::image::{DiskFile, DiskLayout, DiskPlaced, Group, LocalFile};
use crate::ledger::Reservation;

/// Passing arenas at once.
const PASSING: u64 = 2;

/// A part that was found in a pack.
struct Found {
    part: PackPart,
    origin: Origin,
    source: fill::Source,
    layout: DiskLayout,
}

/// Resident sections that are being gathered, and the files with their blocks.
#[derive(Default)]
struct Gathered {
    files: Vec<DiskFile>,
    parts: Vec<(Part, DiskPlaced)>,
}

impl Work<'_> {
    /// Adds all of `local` and `remote` parts; both are ascending and not empty in their layer.
    pub(super) async fn load_disk(
        &mut self,
        layer: &Layer,
        local: &[Part],
        remote: &[Part],
        packs: &LocalPacks,
    ) -> Result<(), LoadError> {
        let mut bad = self.load_resident(layer, local, packs).await?;
        if !bad.is_empty() {
            bad.extend(remote);
            bad.sort_unstable();
        }
        self.fetch_disk(layer, if bad.is_empty() { remote } else { &bad }).await
    }

    /// Loads resident sections from local packs; gives the parts whose bytes turned out to be damaged.
    async fn load_resident(
        &mut self,
        layer: &Layer,
        parts: &[Part],
        packs: &LocalPacks,
    ) -> Result<Vec<Part>, LoadError> {
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        let mut jobs = Vec::new();
        let mut layouts = Vec::new();
        // Number of each file, or nothing if it cannot be opened.
        let mut names: BTreeMap<String, Option<u32>> = BTreeMap::new();
        let mut file_of = Vec::new();
        let mut files: Vec<DiskFile> = Vec::new();
        let mut bad = Vec::new();
        for part in parts {
            let entry = layer.part(*part);
            let (source, found) = packs.find(*part, entry, self.uid).expect("chosen because it was found");
            let local = packs.find_file(*part, entry, self.uid).expect("as above");
            let file = match names.get(local.name.as_str()) {
                Some(file) => *file,
                None => {
                    let file = match self.open(local).await {
                        Ok(file) => {
                            files.push(file);
                            u32::try_from(files.len() - 1).ok()
                        }
                        Err(error) => {
                            tracing::warn!(file = %local.name, %error, "a local pack cannot be opened; fetching its parts again");
                            None
                        }
                    };
                    names.insert(local.name.clone(), file);
                    file
                }
            };
            let Some(file) = file else {
                bad.push(*part);
                continue;
            };
            let found = self.found(found.clone(), entry.origin(self.uid), source)?;
            file_of.push(file);
            layouts.push(found.layout);
            jobs.push(PartJob { part: found.part, origin: found.origin, source: found.source, resident_only: true });
        }
        if jobs.is_empty() {
            return Ok(bad);
        }
        let memory = resident_bytes(jobs.iter().map(|job| &job.part));
        let mut room = self.loader.reserve(memory, 0).await?;
        let jobs = Arc::new(jobs);
        let filled = fill::fill(self.loader, &jobs).await?;
        for (part, error) in &filled.bad {
            tracing::warn!(table = %self.uid, %part, %error, "a local part is damaged; fetching it again");
            let file = packs.find_file(*part, layer.part(*part), self.uid);
            self.suspects.extend(file.map(|file| file.name.clone()));
        }
        let placed: Vec<(Part, DiskPlaced)> = filled
            .landed
            .iter()
            .map(|landed| {
                let job = &jobs[landed.job];
                let placed = DiskPlaced {
                    group: 0,
                    start: landed.start,
                    layout: layouts[landed.job],
                    file: file_of[landed.job],
                    blocks_at: job.part.offset,
                    origin: job.origin,
                };
                (job.part.part, placed)
            })
            .collect();
        if !placed.is_empty() {
            let group = Group::new(filled.arena, room.split(memory, 0), self.loader.reaper.clone());
            self.builder.add_disk_group(Arc::new(group), files, &placed);
        }
        bad.extend(filled.bad.into_iter().map(|(part, _)| part));
        Ok(bad)
    }

    /// Loads parts from the store. A group counts once its pack is durable and open.
    async fn fetch_disk(&mut self, layer: &Layer, parts: &[Part]) -> Result<(), LoadError> {
        if parts.is_empty() {
            return Ok(());
        }
        let groups = plan_groups(layer, parts, self.loader.group_bytes, part_alignment(self.form.schema.kind));
        let directories = group::directories(self.loader, layer, &groups, self.uid).await?;
        let mut found = Vec::new();
        for planned in &groups {
            let parts = planned.parts.iter().map(|part| {
                let entry = layer.part(*part);
                let (source, found) = directories.find(*part, entry)?;
                self.found(found.clone(), entry.origin(self.uid), source)
            });
            found.push(parts.collect::<Result<Vec<Found>, LoadError>>()?);
        }
        let resident = resident_bytes(found.iter().flatten().map(|found| &found.part));
        let at_once = PASSING.min(groups.len() as u64);
        let passing = groups.iter().map(Planned::memory_bytes).max().unwrap_or(0) * at_once;
        let disk: u64 = groups.iter().map(|planned| planned.pack_bytes(layer)).sum();
        let mut room = self.loader.reserve(resident + passing, disk).await?;
        let mut resident_room = room.split(resident, 0);

        let lens: Vec<usize> = found.iter().flatten().map(|found| padded_resident(&found.part)).collect();
        let mut arena = ArenaBuilder::new(lens.iter().sum())?;
        let mut regions = arena.regions(&lens).into_iter();
        let mut start = 0;
        let mut gathered = Gathered::default();
        let fetched =
            self.fetch_groups(layer, &groups, found, &mut regions, &mut start, &mut room, &mut gathered).await;
        drop(regions);
        // What came before an error is good, and stays.
        if !gathered.parts.is_empty() {
            // Of an arena that was not filled to its end, the rest was never touched and takes no memory.
            let filled = resident_room.split(ArenaBuilder::populated_bytes(start as u64), 0);
            let group = Group::new(arena.freeze()?, filled, self.loader.reaper.clone());
            // Some may have been here already.
            self.builder.forget(gathered.parts.iter().map(|(part, _)| *part));
            self.builder.add_disk_group(Arc::new(group), gathered.files, &gathered.parts);
        }
        fetched
    }

    #[allow(clippy::too_many_arguments, reason = "what one pass over the groups works on")]
    async fn fetch_groups(
        &mut self,
        layer: &Layer,
        groups: &[Planned],
        found: Vec<Vec<Found>>,
        regions: &mut std::vec::IntoIter<Region>,
        start: &mut usize,
        room: &mut Reservation,
        gathered: &mut Gathered,
    ) -> Result<(), LoadError> {
        let mut writing = None;
        for (planned, found) in groups.iter().zip(found) {
            let layouts: Vec<DiskLayout> = found.iter().map(|found| found.layout).collect();
            let jobs = found.into_iter().map(|found| PartJob {
                part: found.part,
                origin: found.origin,
                source: found.source,
                resident_only: false,
            });
            let jobs = Arc::new(jobs.collect::<Vec<_>>());
            let filling = self.fill_whole(layer, &jobs);
            let filled = match writing.take() {
                None => filling.await,
                Some((write, residents)) => {
                    let (filled, written) = futures::join!(filling, write);
                    // Also when this group failed, the one before is good.
                    self.keep_disk_group(written?, residents, gathered).await?;
                    filled
                }
            }?;
            let group = Arc::new(Group::new(filled.arena, room.split(0, 0), self.loader.reaper.clone()));
            let mut residents = Vec::new();
            let mut parts = Vec::new();
            let mut copies = Vec::new();
            for landed in &filled.landed {
                let job = &jobs[landed.job];
                let region = regions.next().expect("one region per part, in the order of the groups");
                residents.push((layouts[landed.job], *start, job.origin));
                *start += region.len();
                parts.push(GroupPart {
                    part: job.part.part,
                    start: landed.start,
                    len: landed.len,
                    layout: job.part.layout().map_err(|error| damaged(job.source.name(), error))?,
                });
                let start = landed.start + job.part.block_len() as usize;
                copies.push(ResidentCopy { from: start..landed.start + landed.len, to: region });
            }
            let passing = Arc::clone(&group);
            self.loader.env.compute(move || copies.into_iter().for_each(|copy| copy.run(passing.bytes()))).await?;
            let pack = LocalPack {
                name: format!("{}-{:04}.pack", self.prefix, self.fresh_count),
                reservation: room.split(0, planned.pack_bytes(layer)),
                group,
                parts,
                origin: planned.origin(self.uid),
                schema: self.form.schema.clone(),
                profile: self.form.profile,
            };
            self.fresh_count += 1;
            writing = Some((pack.write(self.loader), residents));
        }
        if let Some((write, residents)) = writing {
            self.keep_disk_group(write.await?, residents, gathered).await?;
        }
        Ok(())
    }

    /// Opens a group's pack for reads and notes its parts.
    async fn keep_disk_group(
        &mut self,
        written: WrittenPack,
        residents: Vec<(DiskLayout, usize, Origin)>,
        gathered: &mut Gathered,
    ) -> Result<(), LoadError> {
        let file = self.open(written.file.file()).await?;
        let number = u32::try_from(gathered.files.len()).expect("far fewer files than 2^32");
        gathered.files.push(file);
        for ((part, offset), (layout, start, origin)) in written.parts.iter().zip(&written.offsets).zip(residents) {
            let placed = DiskPlaced { group: 0, start, layout, file: number, blocks_at: *offset, origin };
            gathered.parts.push((part.part, placed));
        }
        self.keep_file(written.file, &written.parts);
        Ok(())
    }

    async fn open(&self, local: &Arc<LocalFile>) -> Result<DiskFile, LoadError> {
        let (io, path) = (Arc::clone(&self.loader.io), self.loader.images_dir.join(&local.name));
        let handle = self.loader.env.blocking(move || io.register(&path)).await??;
        Ok(DiskFile { handle, local: Arc::clone(local) })
    }

    fn found(&self, part: PackPart, origin: Origin, source: fill::Source) -> Result<Found, LoadError> {
        let layout = part.layout().map_err(|error| damaged(source.name(), error))?;
        layout.matches(&self.form.schema).map_err(|error| damaged(source.name(), error))?;
        let Some(layout) = DiskLayout::of(layout) else {
            let reason = format!("a memory part in a table of kind {}", self.form.schema.kind);
            return Err(LoadError::Foreign { path: source.name().to_owned(), reason });
        };
        Ok(Found { part, origin, source, layout })
    }
}

/// The resident section of one part: where it is in a passing arena, and where it stays.
struct ResidentCopy {
    from: Range<usize>,
    to: Region,
}

impl ResidentCopy {
    fn run(mut self, passing: &[u8]) {
        let resident = &passing[self.from];
        self.to[..resident.len()].copy_from_slice(resident);
    }
}

fn padded_resident(part: &PackPart) -> usize {
    // Lengths were checked to be below 2^50 when the form was read.
    (part.len() - part.block_len()).next_multiple_of(ALIGN) as usize
}

fn resident_bytes<'a>(parts: impl Iterator<Item = &'a PackPart>) -> u64 {
    ArenaBuilder::populated_bytes(parts.map(|part| padded_resident(part) as u64).sum())
}

fn damaged(path: &str, error: fkv_formats::error::FormatError) -> LoadError {
    LoadError::Object { path: path.to_owned(), error }
}
