//! Loads an image: from local files where they are good, from the store otherwise.
//!
//! ```text
//!   version record ─▶ form (pinned by SHA-256) ─▶ which parts, where
//!   local packs ── directory ─┐   entries whose digest is the form's
//!   store packs ── directory ─┴─▶ groups ─▶ arena ◀─ ranged reads, verified chunk by chunk while warm
//!                                           └─▶ local pack: tmp → fsync → rename   (of what came from the store)
//! ```
//!
//! Everything is checked on the way: form against the record, directory entries against the form, chunks against the
//! directory. Memory and disk are reserved before the first byte of data is read. What fails after some groups were
//! loaded gives an image with the parts that are there, and says what is missing; nothing here touches the image that
//! is being served.

mod disk;
mod fill;
mod group;
mod local;
mod scrub;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fkv_env::{Env, JobPanicked};
use fkv_formats::checksum::sha256;
use fkv_formats::error::FormatError;
use fkv_formats::id::{ContentId, Part, TableUid, Version};
use fkv_formats::manifest::{Form, Layer, PartEntry};
use fkv_formats::pack::{PackPart, part_alignment};
use fkv_formats::schema::TableKind;
use fkv_formats::table::mem::MemLayout;
use fkv_meta::Meta;
use fkv_meta::record::{FormKind, FormRef, Label, VersionRecord, VersionState};
use fkv_store::error::StoreError;

use self::fill::{Filled, Landed, PartJob};
use self::group::{Directories, Planned, plan_groups};
use self::local::{FreshFile, GroupPart, LocalPack, LocalPacks, WrittenPack};
pub(crate) use self::scrub::ScrubStart;
use crate::cache::RecordCache;
use crate::fetch::Fetcher;
use crate::image::arena::Arena;
use crate::image::{Group, Image, ImageBuilder, LocalFile, LocalImage, PartSet, Placed, Reaper};
use crate::io::BlockIo;
use crate::ledger::{DoesNotFit, Ledger, Reservation};
use crate::table::{LoadStart, Trouble, TroubleKind};
use crate::throttle::Throttle;

/// What all loads of a server share.
#[derive(Debug)]
pub(crate) struct Loader {
    pub(crate) env: Env,
    pub(crate) meta: Meta,
    pub(crate) fetcher: Fetcher,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) reaper: Reaper,
    /// Where image files live.
    pub(crate) images_dir: PathBuf,
    /// Reads blocks for lookups.
    pub(crate) io: Arc<dyn BlockIo>,
    /// Keeps records that lookups have read.
    pub(crate) cache: Arc<RecordCache>,
    /// Ranged reads of one load in flight.
    pub(crate) reads: usize,
    /// Longest ranged read.
    pub(crate) read_bytes: u64,
    /// A group is closed when it has this many bytes.
    pub(crate) group_bytes: u64,
    /// Limits what scrubs read.
    pub(crate) scrub_throttle: Throttle,
}

/// What to load.
#[derive(Debug)]
pub(crate) struct LoadRequest {
    pub(crate) uid: TableUid,
    pub(crate) start: LoadStart,
    /// The version's record, as far as known.
    pub(crate) version: Option<VersionRecord>,
    pub(crate) parts: PartSet,
}

/// What a load brought.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) image: Image,
    pub(crate) local: LocalImage,
    /// Why parts are missing, if some are.
    pub(crate) missing: Option<Trouble>,
    /// Local files that are of no use any more.
    pub(crate) unusable_files: Vec<Arc<LocalFile>>,
    /// Local files that this load wrote.
    pub(crate) fresh_files: Vec<Arc<LocalFile>>,
    /// Names of local files of which a part proved damaged.
    pub(crate) suspects: BTreeSet<String>,
}

/// Why a load, or a part of it, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot read from the store: {0}")]
    Store(#[from] StoreError),
    #[error("version {version} cannot be loaded: {reason}")]
    Version { version: Version, reason: String },
    #[error("{path} {}: {error}", verdict(error))]
    Object { path: String, error: FormatError },
    #[error("{path} is not the object that its version refers to: {reason}")]
    Foreign { path: String, reason: String },
    #[error("it does not fit: {0}")]
    DoesNotFit(#[from] DoesNotFit),
    #[error("it does not fit: the disk of the data directory has {free} bytes left, {asked} are needed")]
    DiskFull { asked: u64, free: u64 },
    #[error("this build cannot serve it: {0}")]
    Unsupported(String),
    #[error("local files: {0}")]
    Local(#[from] std::io::Error),
    #[error(transparent)]
    Panicked(#[from] JobPanicked),
}

/// What an operator does about bytes that cannot be read: damage is repaired, another version calls for another build.
const fn verdict(error: &FormatError) -> &'static str {
    match error {
        FormatError::Version { .. } => "cannot be used",
        _ => "is damaged",
    }
}

impl LoadError {
    fn trouble(&self, content: ContentId) -> Trouble {
        if let Self::DoesNotFit(refused) = self {
            return Trouble::of_refusal(content, *refused, self.to_string());
        }
        let kind = match self {
            Self::Store(StoreError::NotFound { .. }) | Self::Version { .. } => TroubleKind::Missing,
            Self::DoesNotFit(_) | Self::DiskFull { .. } => TroubleKind::DoesNotFit,
            Self::Unsupported(_) => TroubleKind::Unsupported,
            Self::Store(_) | Self::Object { .. } | Self::Foreign { .. } | Self::Local(_) | Self::Panicked(_) => {
                TroubleKind::Failed
            }
        };
        Trouble::new(content, kind, self.to_string())
    }
}

/// The form of a content, with its local file.
struct FoundForm {
    form: Form,
    form_ref: FormRef,
    file: Arc<LocalFile>,
    /// The same file, if this load wrote it.
    fresh: Option<FreshFile>,
}

/// A load under way.
struct Work<'l> {
    loader: &'l Loader,
    uid: TableUid,
    form: Form,
    builder: ImageBuilder,
    /// Files written so far; removed unless kept.
    fresh: Vec<FreshFile>,
    /// The parts in these files.
    fresh_parts: PartSet,
    /// Packs begun so far.
    fresh_count: usize,
    /// Local files of which a part proved damaged.
    suspects: BTreeSet<String>,
    /// Common beginning of the names of the files it writes.
    prefix: String,
}

impl Loader {
    /// How long a load that does not fit waits for memory that is on its way back.
    const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

    /// Loads an image, as far as possible.
    pub(crate) async fn load(&self, request: LoadRequest) -> Result<Loaded, Trouble> {
        let content = request.start.label.content;
        self.try_load(request).await.map_err(|error| error.trouble(content))
    }

    async fn try_load(&self, request: LoadRequest) -> Result<Loaded, LoadError> {
        let LoadRequest { uid, start, version, parts } = request;
        let LoadStart { label, existing, local, reread, distrusted } = start;
        let prefix = format!("{:016x}-{}-{:016x}", uid.0, label.content.short(), self.env.entropy.next_u64());

        let known = if reread { None } else { version };
        let found = self.find_form(uid, label, local.as_ref(), known, &prefix).await?;
        let FoundForm { form, form_ref, file: form_file, fresh } = found;
        let mut unusable_files = Vec::new();
        let packs = match &local {
            Some(local) => {
                if !Arc::ptr_eq(&local.form_file, &form_file) {
                    unusable_files.push(Arc::clone(&local.form_file));
                }
                LocalPacks::open(self, uid, &local.packs).await?
            }
            None => LocalPacks::default(),
        };
        unusable_files.extend(packs.unusable().cloned());
        let builder = match &existing {
            Some(image) => ImageBuilder::extending(image),
            None => {
                let disk = (form.schema.kind != TableKind::Mem).then(|| self.cache.scope());
                ImageBuilder::new(label.content, label.version, form.as_of, disk)
            }
        };
        let mut work = Work {
            loader: self,
            uid,
            form,
            builder,
            fresh: Vec::new(),
            fresh_parts: PartSet::EMPTY,
            fresh_count: 0,
            suspects: BTreeSet::new(),
            prefix,
        };
        let missing = match work.load_parts(&parts, &packs, &distrusted).await {
            Ok(()) => None,
            // Nothing at all: what was written goes with `work`.
            Err(error) if work.builder.parts().is_empty() => return Err(error),
            Err(error) => Some(error.trouble(label.content)),
        };
        let Work { form, builder, fresh: fresh_packs, fresh_parts, suspects, .. } = work;
        let fresh_packs: Vec<Arc<LocalFile>> = fresh_packs.into_iter().map(FreshFile::keep).collect();
        // A pack whose parts are all in later ones would never be read again, and take the disk's room for ever.
        let (mut pack_files, superseded) = packs.into_needed(&form, fresh_parts);
        unusable_files.extend(superseded);
        pack_files.extend(fresh_packs.iter().cloned());
        let mut fresh_files = fresh_packs;
        fresh_files.extend(fresh.map(FreshFile::keep));
        builder.learn(self.env.clock.as_ref());
        Ok(Loaded {
            image: builder.finish(),
            local: LocalImage { form: form_ref, form_file, packs: pack_files },
            missing,
            unusable_files,
            fresh_files,
            suspects,
        })
    }

    /// The form: the local one if it is good, else the one metadata names.
    async fn find_form(
        &self,
        uid: TableUid,
        label: Label,
        local: Option<&LocalImage>,
        known: Option<VersionRecord>,
        prefix: &str,
    ) -> Result<FoundForm, LoadError> {
        if let Some(local) = local
            && let Some(form) = self.local_form(local).await?
        {
            check_form(&form, uid, label, &local.form_file.name)?;
            return Ok(FoundForm {
                form,
                form_ref: local.form.clone(),
                file: Arc::clone(&local.form_file),
                fresh: None,
            });
        }
        let form_ref = choose_form(&self.version(uid, label, known).await?)?;
        let object = &form_ref.object;
        let bytes = self.fetcher.object(&object.path, object.len).await?;
        if bytes.len() as u64 != object.len || sha256(&bytes) != object.sha256 {
            let reason = "its length or SHA-256 differs".to_owned();
            return Err(LoadError::Foreign { path: object.path.clone(), reason });
        }
        let form = Form::decode(&bytes).map_err(|error| LoadError::Object { path: object.path.clone(), error })?;
        check_form(&form, uid, label, &object.path)?;
        let reservation = self.ledger.reserve(0, object.len)?;
        let fresh =
            FreshFile::write(self, format!("{prefix}.form"), reservation, move |out| out.write_all(&bytes)).await?.0;
        Ok(FoundForm { form, form_ref, file: Arc::clone(fresh.file()), fresh: Some(fresh) })
    }

    async fn local_form(&self, local: &LocalImage) -> Result<Option<Form>, LoadError> {
        let path = self.images_dir.join(&local.form_file.name);
        let (files, object) = (Arc::clone(&self.env.files), local.form.object.clone());
        let form = self
            .env
            .blocking(move || {
                let bytes = files.read(&path).map_err(|error| error.to_string())?;
                if bytes.len() as u64 != object.len || sha256(&bytes) != object.sha256 {
                    return Err("its length or SHA-256 differs".to_owned());
                }
                Form::decode(&bytes).map_err(|error| error.to_string())
            })
            .await?;
        match form {
            Ok(form) => Ok(Some(form)),
            Err(reason) => {
                tracing::warn!(file = %local.form_file.name, %reason, "a local form cannot be used; fetching it again");
                Ok(None)
            }
        }
    }

    /// The version's record: as known, or read now.
    async fn version(
        &self,
        uid: TableUid,
        label: Label,
        known: Option<VersionRecord>,
    ) -> Result<VersionRecord, LoadError> {
        let unusable = |reason: String| LoadError::Version { version: label.version, reason };
        let record = match known {
            Some(record) => record,
            None => match self.meta.version(uid, label.version).await {
                Ok(Some(record)) => record.value,
                Ok(None) => return Err(unusable("there is no record of it".to_owned())),
                Err(error) => return Err(unusable(error.to_string())),
            },
        };
        if record.content != label.content {
            return Err(unusable(format!("it has content {}, not {}", record.content, label.content)));
        }
        if record.state != VersionState::Live {
            return Err(unusable("it is being removed".to_owned()));
        }
        Ok(record)
    }

    /// Reserves both amounts; while it does not fit but memory is on its way back, waits for that.
    async fn reserve(&self, memory: u64, disk: u64) -> Result<Reservation, LoadError> {
        let deadline = self.env.clock.monotonic() + Self::ROOM_WAIT_MAX;
        let reservation = loop {
            // Before the attempt: what is given back between it and the wait must end the wait.
            let given_back = self.ledger.given_back();
            tokio::pin!(given_back);
            given_back.as_mut().enable();
            match self.ledger.reserve(memory, disk) {
                Ok(reservation) => break reservation,
                Err(refused) => {
                    if !self.reaper.is_busy() || self.env.clock.monotonic() >= deadline {
                        return Err(refused.into());
                    }
                }
            }
            let pause = Duration::from_millis(50);
            let _ = fkv_env::timeout(self.env.clock.as_ref(), pause, given_back).await;
        };
        let (files, dir) = (Arc::clone(&self.env.files), self.images_dir.clone());
        let free = self.env.blocking(move || files.free_bytes(&dir)).await??;
        if free < disk {
            return Err(LoadError::DiskFull { asked: disk, free });
        }
        Ok(reservation)
    }
}

impl Work<'_> {
    /// Adds all `wanted` parts that the image lacks.
    async fn load_parts(
        &mut self,
        wanted: &PartSet,
        packs: &LocalPacks,
        distrusted: &PartSet,
    ) -> Result<(), LoadError> {
        let [layer] = self.form.layers.as_slice() else {
            let reason = format!("the version is a chain of {} layers", self.form.layers.len());
            return Err(LoadError::Unsupported(reason));
        };
        let layer = layer.clone();
        let mut local: Vec<Part> = Vec::new();
        let mut remote: Vec<Part> = Vec::new();
        for part in wanted.iter() {
            let entry = layer.part(part);
            let is_local = packs.find(part, entry, self.uid).is_some();
            match (self.builder.parts().contains(part), entry.is_empty()) {
                (true, true) => {}
                (false, true) => self.builder.add_empty(part),
                // It is here, but its pack cannot be used any more: the next start would miss it.
                (true, false) if !is_local => remote.push(part),
                (true, false) => {}
                (false, false) if is_local && !distrusted.contains(part) => local.push(part),
                (false, false) => remote.push(part),
            }
        }
        if self.form.schema.kind != TableKind::Mem {
            return self.load_disk(&layer, &local, &remote, packs).await;
        }
        let align = part_alignment(TableKind::Mem);
        let local = plan_groups(&layer, &local, self.loader.group_bytes, align);
        let remote = plan_groups(&layer, &remote, self.loader.group_bytes, align);
        let memory: u64 = local.iter().chain(&remote).map(Planned::memory_bytes).sum();
        let disk: u64 = remote.iter().map(|planned| planned.pack_bytes(&layer)).sum();
        let mut room = self.loader.reserve(memory, disk).await?;

        let bad = self.load_local(&layer, &local, packs, &mut room).await?;
        self.load_remote(&layer, &remote, room).await?;
        if bad.is_empty() {
            return Ok(());
        }
        let again = plan_groups(&layer, &bad, self.loader.group_bytes, align);
        let memory = again.iter().map(Planned::memory_bytes).sum();
        let disk = again.iter().map(|planned| planned.pack_bytes(&layer)).sum();
        let room = self.loader.reserve(memory, disk).await?;
        self.load_remote(&layer, &again, room).await
    }

    /// Loads groups from local packs; gives the parts that turned out to be damaged.
    async fn load_local(
        &mut self,
        layer: &Layer,
        groups: &[Planned],
        packs: &LocalPacks,
        room: &mut Reservation,
    ) -> Result<Vec<Part>, LoadError> {
        let mut bad = Vec::new();
        for planned in groups {
            let mut jobs = Vec::new();
            for part in &planned.parts {
                let entry = layer.part(*part);
                let (source, found) = packs.find(*part, entry, self.uid).expect("chosen because it was found");
                jobs.push(self.job(found.clone(), entry, source)?);
            }
            let (jobs, layouts): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
            let jobs = Arc::new(jobs);
            let filled = fill::fill(self.loader, &jobs).await?;
            for (part, error) in &filled.bad {
                tracing::warn!(table = %self.uid, %part, %error, "a local part is damaged; fetching it again");
            }
            bad.extend(filled.bad.iter().map(|(part, _)| *part));
            let placed = placed(&filled.landed, &jobs, &layouts);
            let reservation = room.split(planned.memory_bytes(), 0);
            let group = Group::new(filled.arena, reservation, self.loader.reaper.clone());
            self.builder.add_group(Arc::new(group), placed);
        }
        Ok(bad)
    }

    /// Loads groups from the store, and writes each to a local pack while the next is read. A group counts once its
    /// pack is durable: what is held survives a restart.
    async fn load_remote(&mut self, layer: &Layer, groups: &[Planned], mut room: Reservation) -> Result<(), LoadError> {
        if groups.is_empty() {
            return Ok(());
        }
        let directories = group::directories(self.loader, layer, groups, self.uid).await?;
        let mut writing = None;
        for planned in groups {
            let filling = self.fill_remote(layer, planned, &directories);
            let (arena, placed) = match writing.take() {
                None => filling.await,
                Some((write, placed)) => {
                    let (filled, written) = futures::join!(filling, write);
                    // Also when this group failed, the one before is good.
                    self.keep_group(written?, placed);
                    filled
                }
            }?;
            let memory = room.split(planned.memory_bytes(), 0);
            let disk = room.split(0, planned.pack_bytes(layer));
            let parts = placed.iter().map(|(part, Placed { start, len, layout, .. })| GroupPart {
                part: *part,
                start: *start,
                len: *len,
                layout: (*layout).into(),
            });
            let pack = LocalPack {
                name: format!("{}-{:04}.pack", self.prefix, self.fresh_count),
                reservation: disk,
                group: Arc::new(Group::new(arena, memory, self.loader.reaper.clone())),
                parts: parts.collect(),
                origin: planned.origin(self.uid),
                schema: self.form.schema.clone(),
                profile: self.form.profile,
            };
            self.fresh_count += 1;
            writing = Some((pack.write(self.loader), placed));
        }
        if let Some((write, placed)) = writing {
            self.keep_group(write.await?, placed);
        }
        Ok(())
    }

    async fn fill_remote(
        &self,
        layer: &Layer,
        planned: &Planned,
        directories: &Directories,
    ) -> Result<(Arena, Vec<(Part, Placed)>), LoadError> {
        let mut jobs = Vec::new();
        for part in &planned.parts {
            let entry = layer.part(*part);
            let (source, found) = directories.find(*part, entry)?;
            jobs.push(self.job(found.clone(), entry, source)?);
        }
        let (jobs, layouts): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        let jobs = Arc::new(jobs);
        let filled = self.fill_whole(layer, &jobs).await?;
        let placed = placed(&filled.landed, &jobs, &layouts);
        Ok((filled.arena, placed))
    }

    /// Fills an arena from the store, where there is no other source for what is damaged.
    async fn fill_whole(&self, layer: &Layer, jobs: &Arc<Vec<PartJob>>) -> Result<Filled, LoadError> {
        let filled = fill::fill(self.loader, jobs).await?;
        match filled.bad.first() {
            None => Ok(filled),
            Some((part, error)) => {
                let object = layer.objects.get(layer.part(*part).object as usize);
                let path = object.map_or(String::new(), |object| object.path.clone());
                Err(LoadError::Object { path, error: error.clone() })
            }
        }
    }

    fn keep_group(&mut self, written: WrittenPack, placed: Vec<(Part, Placed)>) {
        // Some may have been here already.
        self.builder.forget(placed.iter().map(|(part, _)| *part));
        self.builder.add_group(written.group, placed);
        self.keep_file(written.file, &written.parts);
    }

    fn keep_file(&mut self, file: FreshFile, parts: &[GroupPart]) {
        self.fresh.push(file);
        self.fresh_parts.extend(parts.iter().map(|part| part.part));
    }

    fn job(&self, part: PackPart, entry: &PartEntry, source: fill::Source) -> Result<(PartJob, MemLayout), LoadError> {
        let damaged = |error| LoadError::Object { path: source.name().to_owned(), error };
        let layout = part.mem_layout().map_err(damaged)?;
        layout.matches(&self.form.schema).map_err(damaged)?;
        Ok((PartJob { origin: entry.origin(self.uid), part, source, resident_only: false }, layout))
    }
}

/// The parts that landed in an arena, as images have them.
fn placed(landed: &[Landed], jobs: &[PartJob], layouts: &[MemLayout]) -> Vec<(Part, Placed)> {
    let place = |landed: &Landed| {
        let Landed { job, start, len } = *landed;
        (jobs[job].part.part, Placed { group: 0, start, len, layout: layouts[job] })
    };
    landed.iter().map(place).collect()
}

/// Checks that a form is of the version asked for and of a kind this build serves.
fn check_form(form: &Form, uid: TableUid, label: Label, path: &str) -> Result<(), LoadError> {
    if (form.uid, form.content) != (uid, label.content) {
        let reason = format!("it is of table {} and content {}", form.uid, form.content);
        return Err(LoadError::Foreign { path: path.to_owned(), reason });
    }
    Ok(())
}

/// The form to load: a full one if there is one.
fn choose_form(record: &VersionRecord) -> Result<FormRef, LoadError> {
    let full = record.forms.iter().find(|form| form.kind == FormKind::Full);
    full.or(record.forms.first()).cloned().ok_or_else(|| {
        let reason = "its record names no form".to_owned();
        LoadError::Version { version: record.version, reason }
    })
}
