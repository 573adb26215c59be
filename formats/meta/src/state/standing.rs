//! Who holds what a table shall show.

use std::fmt;

use fkv_formats::id::{ContentId, Slot};

use crate::record::TableRecord;
use crate::stamped::Stamped;
use crate::view::View;

/// Why a required slot does not count as holding a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Its server does not hold its claim.
    Unclaimed,
    /// Its server has claimed it, but reported nothing yet.
    NotReported,
    /// It has reported other contents; it is loading.
    Loading,
    /// It cannot load the table; the reason is the server's.
    Problem(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclaimed => f.write_str("its server is not there"),
            Self::NotReported => f.write_str("its server has reported nothing yet"),
            Self::Loading => f.write_str("it is loading"),
            Self::Problem(problem) => write!(f, "it cannot load the table: {problem}"),
        }
    }
}

/// Which of the slots required for a table hold a content, at the revision of a view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The slots required: those of active sects, less the table's exclusions.
    pub required: Vec<Slot>,
    /// Those of them that do not hold the content, and why.
    pub missing: Vec<(Slot, Lack)>,
}

impl Standing {
    /// Looks at all required slots.
    #[must_use]
    pub fn of(view: &View, table: &Stamped<TableRecord>, content: ContentId) -> Self {
        let mut standing = Self::default();
        let Some(topology) = view.topology() else { return standing };
        for slot in topology.value.active_slots().filter(|slot| !table.value.exclusions.contains_key(slot)) {
            if let Some(lack) = lack(view, table, content, &slot) {
                standing.missing.push((slot.clone(), lack));
            }
            standing.required.push(slot);
        }
        standing
    }

    /// Whether there are required slots and all hold the content.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.required.is_empty() && self.missing.is_empty()
    }
}

/// Why `slot` does not hold `content`; `None` if it does.
pub(crate) fn lack(view: &View, table: &Stamped<TableRecord>, content: ContentId, slot: &Slot) -> Option<Lack> {
    let Some(report) = view.valid_report(slot) else {
        return Some(if view.claim(slot).is_some() { Lack::NotReported } else { Lack::Unclaimed });
    };
    if report.tables.get(&table.uid()).is_some_and(|held| held.iter().any(|image| image.content == content)) {
        return None;
    }
    Some(report.problems.get(&table.uid()).map_or(Lack::Loading, |problem| Lack::Problem(problem.clone())))
}
