//! Parts that turned out to be damaged on local disk while they were being read, on their way to who fetches them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use fkv_formats::id::{ContentId, Part, TableUid};
use tokio::sync::Notify;

/// A part, and the local file whose bytes of it are not what was written. The part may be good in another file.
pub(crate) type DamagedPart = (Part, String);

/// Damaged parts by image.
pub(crate) type Damage = BTreeMap<(TableUid, ContentId), BTreeSet<DamagedPart>>;

/// Where lookups leave word of damage.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    noted: Mutex<Damage>,
    news: Notify,
}

impl Faults {
    /// Notes that a part of an image cannot be read as it was written to a file.
    pub(crate) fn note(&self, uid: TableUid, content: ContentId, damaged: DamagedPart) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.entry((uid, content)).or_default().insert(damaged) {
            self.news.notify_one();
        }
    }

    /// Waits for damage and takes all that was noted.
    pub(crate) async fn next(&self) -> Damage {
        loop {
            let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
            if !noted.is_empty() {
                return noted;
            }
            self.news.notified().await;
        }
    }
}
