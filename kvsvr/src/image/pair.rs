//! The two images of a table, as requests see them.
//!
//! ```text
//!   ArcSwap<Pair> ── load once per section ──▶ serving │ other │ aligned label
//!        ▲
//!        └─ flip: one pointer store, when the news of the alignment arrives
//! ```
//!
//! A request takes one `Pair` per section and keeps it to the end: what it answers is of one content, whatever flips
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use fkv_formats::id::{ContentId, TableUid};
use fkv_formats::schema::Schema;
use fkv_meta::record::Label;
use fkv_rpc::packed::{HeldContent, SectionLabel, SectionStatus, Selector, Shown};

use super::Image;

/// An image under the label it is known by at present.
#[derive(Clone, Debug)]
pub(crate) struct Labelled {
    pub(crate) label: Label,
    pub(crate) image: Arc<Image>,
    /// Whether it has every part the server's slots own.
    pub(crate) complete: bool,
}

/// What requests to a table can get.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair {
    /// What default reads get.
    pub(crate) serving: Option<Labelled>,
    /// The other image, on request only.
    pub(crate) other: Option<Labelled>,
    /// What is shown everywhere, as far as this server has heard.
    pub(crate) aligned: Option<Label>,
    /// Content that requests flagged canary get, if this server is of a canary sect.
    pub(crate) canary: Option<ContentId>,
}

/// A table as requests see it.
#[derive(Debug)]
pub(crate) struct ServedTable {
    pub(crate) schema: Schema,
    pair: ArcSwap<Pair>,
    flips: AtomicU64,
}

impl ServedTable {
    pub(crate) fn new(schema: Schema) -> Self {
        Self { schema, pair: ArcSwap::from_pointee(Pair::default()), flips: AtomicU64::new(0) }
    }

    pub(crate) fn pair(&self) -> Arc<Pair> {
        self.pair.load_full()
    }

    /// Replaces the pair; gives whether default reads get another content from now on.
    pub(crate) fn replace(&self, pair: Pair) -> bool {
        let content = |pair: &Pair| pair.serving.as_ref().map(|serving| serving.label.content);
        let after = content(&pair);
        let before = content(&self.pair.swap(Arc::new(pair)));
        let flipped = before.is_some() && after.is_some() && before != after;
        if flipped {
            self.flips.fetch_add(1, Ordering::Relaxed);
        }
        flipped
    }

    /// How often default reads changed from one content to another since the server started.
    pub(crate) fn flips(&self) -> u64 {
        self.flips.load(Ordering::Relaxed)
    }
}

impl Pair {
    fn images(&self) -> impl Iterator<Item = &Labelled> {
        self.serving.iter().chain(&self.other)
    }

    /// The image that a section asks for, and the version to label it with.
    pub(crate) fn select(&self, selector: Selector, canary: bool) -> Result<&Labelled, SectionStatus> {
        let of_content = |content| self.images().find(|image| image.label.content == content);
        let held = match selector {
            Selector::Aligned => {
                let shown = if canary { self.canary.and_then(of_content) } else { None };
                return shown.or(self.serving.as_ref()).ok_or(SectionStatus::NotLoaded);
            }
            Selector::Content(content) => of_content(content),
            // A release gives a content a second version: the image answers for the one it was loaded as, too.
            Selector::Version(version) => {
                self.images().find(|image| image.label.version == version || image.image.version() == version)
            }
        };
        held.ok_or(SectionStatus::ContentNotHeld)
    }

    /// The label of a section answered from `served`, or refused.
    pub(crate) fn label(&self, table: TableUid, served: Option<&Labelled>) -> SectionLabel {
        let other = self
            .images()
            .find(|image| image.complete && served.is_none_or(|served| served.label.content != image.label.content));
        SectionLabel {
            table,
            served: served.map(|image| shown(image.label)),
            aligned: self.aligned.map(shown),
            other: other.map(|image| HeldContent { version: image.label.version, content: image.label.content }),
            as_of_s: served.map_or(0, |image| image.image.as_of()),
        }
    }
}

fn shown(label: Label) -> Shown {
    Shown { version: label.version, content: label.content, epoch: label.epoch }
}
