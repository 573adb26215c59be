//! The slices that parts are built from: where each lies, and its directory.

use std::sync::Arc;

use fkv_formats::slice::SliceDirectory;
use fkv_store::Store;
use futures::stream::{StreamExt, TryStreamExt};

use crate::build::output::SliceRef;
use crate::build::part::Place;
use crate::error::AttemptError;
use crate::input::open::{Places, Stretch};
use crate::job::{JobContext, slice_id, slice_spec};
use crate::object;

/// Directories read at once.
const REQUESTS: usize = 16;

/// A slice, or a piece of one.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// Path below the store's root.
    pub(crate) path: Arc<str>,
    /// Its directory.
    pub(crate) directory: SliceDirectory,
}

/// All slices of a plan, in the order of the input: of two records with one key, that of the later slice is the later row.
#[derive(Debug)]
pub(crate) struct Slices {
    slices: Vec<Slice>,
    /// By the number of the slice.
    places: Vec<Vec<Stretch>>,
}

impl Slices {
    /// Reads the directories of all slices: by number, the pieces of each.
    ///
    /// # Errors
    /// The store fails, or an object is not the slice it should be.
    pub(crate) async fn open(job: &JobContext<'_>, slices: &[(u32, &[SliceRef])]) -> Result<Self, AttemptError> {
        let spec = &slice_spec(job.plan, job.spec);
        let pieces = slices
            .iter()
            .flat_map(|(number, pieces)| (0..).zip(*pieces).map(|(piece, slice)| (*number, piece, slice.clone())));
        let pieces: Vec<(u32, u32, SliceRef)> = pieces.collect();
        let slices = futures::stream::iter(pieces)
            .map(|(number, piece, slice)| async move {
                let directory = read_directory(job.store, &slice).await?;
                let checked = directory.check(&slice_id(job.plan, number, piece), spec);
                checked.map_err(|error| wrong(job.store, &slice.path, &error.to_string()))?;
                if directory.records() != slice.records {
                    return Err(wrong(job.store, &slice.path, "it has another number of records than its job counted"));
                }
                Ok(Slice { path: slice.path.as_str().into(), directory })
            })
            .buffered(REQUESTS)
            .try_collect()
            .await?;
        Ok(Self { slices, places: Vec::new() })
    }

    /// The same slices, with the rows that their places stand for, by the number of the slice.
    #[must_use]
    pub(crate) fn with_places(self, places: Vec<Vec<Stretch>>) -> Self {
        Self { places, ..self }
    }

    /// All of them.
    #[must_use]
    pub(crate) fn all(&self) -> &[Slice] {
        &self.slices
    }

    /// The file and the row number within it of a place, for a message.
    pub(crate) fn locate(&self, place: Place) -> String {
        let stretches = usize::try_from(place.slice).ok().and_then(|slice| self.places.get(slice));
        Places::of(stretches.cloned().unwrap_or_default()).locate(place.row)
    }
}

/// An error that names the slice.
pub(crate) fn wrong(store: &Store, path: &str, reason: &str) -> AttemptError {
    AttemptError::Object { path: object::url(store, path), reason: reason.to_owned() }
}

async fn read_directory(store: &Store, slice: &SliceRef) -> Result<SliceDirectory, AttemptError> {
    let short = || wrong(store, &slice.path, "it is shorter than a slice can be");
    let start = slice.len.checked_sub(SliceDirectory::TAIL_BYTES).ok_or_else(short)?;
    let tail = store.get_range(&slice.path, start..slice.len).await?;
    SliceDirectory::parse(&tail, slice.len).map_err(|error| wrong(store, &slice.path, &error.to_string()))
}
