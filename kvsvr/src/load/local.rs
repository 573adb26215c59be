//! Local packs: what a load tees to disk, and what the next start loads from.

use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::sync::Arc;

use fkv_env::{FileReader, FileWriter, Files};
use fkv_formats::checksum::Origin;
use fkv_formats::id::{Part, TableUid};
use fkv_formats::manifest::{Form, Layer, PartEntry};
use fkv_formats::pack::{DirectoryRead, PackDirectory, PackPart, PackWriter};
use fkv_formats::schema::Schema;
use fkv_formats::table::{PartLayout, Profile};

use super::fill::Source;
use super::group::matching;
use super::{LoadError, Loader};
use crate::image::{Group, LocalFile, PartSet};
use crate::ledger::Reservation;

const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// A file that a load has written. Unless kept, it is removed when dropped: a load that fails or is cancelled leaves
/// nothing behind.
#[derive(Debug)]
pub(super) struct FreshFile {
    file: Arc<LocalFile>,
    on_disk: OnDisk,
}

/// A path that is removed when dropped.
#[derive(Debug)]
struct OnDisk {
    files: Arc<dyn Files>,
    path: PathBuf,
    armed: bool,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.files.remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // The next start removes it as a leftover.
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the file of a load that was given up");
        }
    }
}

type Output = BufWriter<Box<dyn FileWriter>>;

impl FreshFile {
    /// Writes a file: temporary name, fsync, rename, fsync of the directory. `write` runs on the blocking pool; what it
    /// says of the file is given too.
    pub(super) async fn write<T: Send + 'static>(
        loader: &Loader,
        name: String,
        reservation: Reservation,
        write: impl FnOnce(&mut Output) -> io::Result<T> + Send + 'static,
    ) -> Result<(Self, T), LoadError> {
        let (files, dir) = (Arc::clone(&loader.env.files), loader.images_dir.clone());
        // The guards live inside: if the load is cancelled meanwhile, the result is dropped there, and the file goes.
        let work = move || -> io::Result<(Self, T)> {
            let guard = |path: PathBuf| OnDisk { files: Arc::clone(&files), path, armed: true };
            let mut temporary = guard(dir.join(format!("{name}.tmp")));
            let mut output = BufWriter::with_capacity(WRITE_BUFFER_BYTES, files.create(&temporary.path)?);
            let said = write(&mut output)?;
            let mut file = output.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync()?;
            drop(file);
            let on_disk = guard(dir.join(&name));
            files.rename(&temporary.path, &on_disk.path)?;
            temporary.armed = false;
            files.sync_dir(&dir)?;
            let len = files.open(&on_disk.path)?.len()?;
            Ok((Self { file: Arc::new(LocalFile::new(name, len, reservation)), on_disk }, said))
        };
        Ok(loader.env.blocking(work).await??)
    }

    pub(super) const fn file(&self) -> &Arc<LocalFile> {
        &self.file
    }

    /// Lets the file stay.
    pub(super) fn keep(mut self) -> Arc<LocalFile> {
        self.on_disk.armed = false;
        Arc::clone(&self.file)
    }
}

/// A group on its way to disk.
pub(super) struct LocalPack {
    pub(super) name: String,
    pub(super) reservation: Reservation,
    pub(super) group: Arc<Group>,
    /// The parts in the group, ascending.
    pub(super) parts: Vec<GroupPart>,
    pub(super) origin: Origin,
    pub(super) schema: Schema,
    pub(super) profile: Profile,
}

/// A part whose data is in a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupPart {
    pub(super) part: Part,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) layout: PartLayout,
}

/// A group whose local pack is durable.
pub(super) struct WrittenPack {
    pub(super) file: FreshFile,
    pub(super) group: Arc<Group>,
    pub(super) parts: Vec<GroupPart>,
    /// Where each part's data begins in the file, in the order of `parts`.
    pub(super) offsets: Vec<u64>,
}

impl LocalPack {
    /// Writes the pack.
    pub(super) async fn write(self, loader: &Loader) -> Result<WrittenPack, LoadError> {
        let Self { name, reservation, group, parts, origin, schema, profile } = self;
        let (bytes, to_write) = (Arc::clone(&group), parts.clone());
        let write = move |output: &mut Output| -> io::Result<Vec<u64>> {
            let mut pack = PackWriter::new(output, origin, &schema, profile).map_err(io::Error::other)?;
            for GroupPart { part, start, len, layout } in to_write {
                pack.put_part(part, &layout, &bytes.bytes()[start..start + len]).map_err(io::Error::other)?;
            }
            let (summary, _) = pack.finish().map_err(io::Error::other)?;
            Ok(summary.directory.parts.iter().map(|part| part.offset).collect())
        };
        let (file, offsets) = FreshFile::write(loader, name, reservation, write).await?;
        Ok(WrittenPack { file, group, parts, offsets })
    }
}

/// An opened local pack.
struct OpenPack {
    file: Arc<LocalFile>,
    reader: Arc<dyn FileReader>,
    directory: PackDirectory,
}

/// The local packs of one image.
#[derive(Default)]
pub(super) struct LocalPacks {
    packs: Vec<OpenPack>,
    unusable: Vec<Arc<LocalFile>>,
}

impl LocalPacks {
    /// Opens packs and reads their directories. One that cannot be read is set apart; its parts come from the store.
    pub(super) async fn open(loader: &Loader, uid: TableUid, packs: &[Arc<LocalFile>]) -> Result<Self, LoadError> {
        let (files, dir, packs) = (Arc::clone(&loader.env.files), loader.images_dir.clone(), packs.to_vec());
        let work = move || {
            let mut opened = Self::default();
            for file in packs {
                match open_pack(files.as_ref(), dir.join(&file.name), uid) {
                    Ok((reader, directory)) => {
                        opened.packs.push(OpenPack { file, reader: Arc::from(reader), directory })
                    }
                    Err(reason) => {
                        tracing::warn!(file = %file.name, %reason, "a local pack cannot be used");
                        opened.unusable.push(file);
                    }
                }
            }
            opened
        };
        Ok(loader.env.blocking(work).await?)
    }

    /// Where the content that `entry` describes is: in the last pack that claims to have it.
    pub(super) fn find(&self, part: Part, entry: &PartEntry, uid: TableUid) -> Option<(Source, &PackPart)> {
        let (pack, found) = self.find_pack(part, entry, uid)?;
        Some((Source::File(Arc::clone(&pack.reader), Arc::from(pack.file.name.as_str())), found))
    }

    /// The file of [`LocalPacks::find`].
    pub(super) fn find_file(&self, part: Part, entry: &PartEntry, uid: TableUid) -> Option<&Arc<LocalFile>> {
        self.find_pack(part, entry, uid).map(|(pack, _)| &pack.file)
    }

    fn find_pack(&self, part: Part, entry: &PartEntry, uid: TableUid) -> Option<(&OpenPack, &PackPart)> {
        self.packs.iter().rev().find_map(|pack| Some((pack, matching(&pack.directory, part, entry, uid)?)))
    }

    /// The usable packs in order, those apart of whose parts none would be taken: all of them are in later packs, those
    /// of `later` among these.
    pub(super) fn into_needed(self, form: &Form, later: PartSet) -> (Vec<Arc<LocalFile>>, Vec<Arc<LocalFile>>) {
        let (mut needed, mut superseded, mut taken) = (Vec::new(), Vec::new(), later);
        for pack in self.packs.into_iter().rev() {
            let parts = pack.directory.parts.iter().map(|found| found.part).filter(|part| {
                let has = |layer: &Layer| matching(&pack.directory, *part, layer.part(*part), form.uid).is_some();
                form.layers.iter().any(has)
            });
            let parts: PartSet = parts.collect();
            if parts.is_subset(&taken) {
                superseded.push(pack.file);
            } else {
                needed.push(pack.file);
                taken.extend(parts.iter());
            }
        }
        needed.reverse();
        (needed, superseded)
    }

    pub(super) fn unusable(&self) -> impl Iterator<Item = &Arc<LocalFile>> {
        self.unusable.iter()
    }
}

/// Opens a pack and reads its directory, or says what is wrong with it.
pub(super) fn open_pack(
    files: &dyn Files,
    path: PathBuf,
    uid: TableUid,
) -> Result<(Box<dyn FileReader>, PackDirectory), String> {
    let reader = files.open(&path).map_err(|error| error.to_string())?;
    let len = reader.len().map_err(|error| error.to_string())?;
    let mut wanted = PackDirectory::TAIL_GUESS.min(len);
    // The footer says how much more is needed; the second read has it.
    for _ in 0..2 {
        let mut tail = vec![0; usize::try_from(wanted).map_err(|error| error.to_string())?];
        reader.read_exact_at(&mut tail, len - wanted).map_err(|error| error.to_string())?;
        match PackDirectory::parse(&tail, len).map_err(|error| error.to_string())? {
            DirectoryRead::Ready(directory) if directory.origin.uid == uid => return Ok((reader, directory)),
            DirectoryRead::Ready(directory) => return Err(format!("it is of table {}", directory.origin.uid)),
            DirectoryRead::NeedTail(needed) => wanted = needed.min(len),
        }
    }
    Err("its directory keeps growing".to_owned())
}
