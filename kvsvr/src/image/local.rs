//! An image's files on local disk.

use std::sync::Arc;

use fkv_meta::record::{FormRef, Label};

use crate::ledger::Reservation;
use crate::state_file::{FileState, ImageState, Removable};

/// A durable file below the image directory, with its share of the ledger.
#[derive(Debug)]
pub(crate) struct LocalFile {
    pub(crate) name: String,
    pub(crate) len: u64,
    /// Given back when nobody refers to the file any more, which is after it was removed.
    _reservation: Reservation,
}

impl LocalFile {
    pub(crate) const fn new(name: String, len: u64, reservation: Reservation) -> Self {
        Self { name, len, _reservation: reservation }
    }

    fn state(&self) -> FileState {
        FileState { name: self.name.clone(), len: self.len }
    }
}

/// The files of one image.
#[derive(Clone, Debug)]
pub(crate) struct LocalImage {
    /// The form object that was loaded.
    pub(crate) form: FormRef,
    pub(crate) form_file: Arc<LocalFile>,
    /// Packs with its parts. A part is taken from the last one that has it whole.
    pub(crate) packs: Vec<Arc<LocalFile>>,
}

impl LocalImage {
    pub(crate) fn state(&self, label: Label, served: bool) -> ImageState {
        ImageState {
            label,
            served,
            form: self.form.clone(),
            form_file: self.form_file.state(),
            packs: self.packs.iter().map(|pack| pack.state()).collect(),
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<LocalFile>> {
        std::iter::once(&self.form_file).chain(&self.packs)
    }
}

/// Files to remove once STATE no longer names them.
#[derive(Debug)]
pub(crate) struct Discarded(pub(crate) Vec<Arc<LocalFile>>);

impl Removable for Discarded {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|file| file.name.clone()).collect()
    }
}
