//! Dividing the keys of a call: by role, by size. Pure; keys are meant by their position in the caller's order, and
//! every division keeps that order.
//!
//! ```text
//!   positions  0 1 2 3 4 5 6 7        parts of the keys ── role table ──▶ roles  1 0 2 0 1 1 0 2
//!   by role    1 3 6 │ 0 4 5 │ 2 7    one array for all roles; each group is a range of it
//! ```

use std::ops::{Deref, Range};
use std::sync::Arc;

use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::id::{Part, Role};
use fkv_formats::route::{RoleTable, part_of};
use fkv_formats::schema::KeyType;
use fkv_rpc::packed::{bytes_section_bytes, u64_section_bytes};

/// The keys of one table in one call.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// 64-bit keys; signed ones are reinterpreted.
    U64(&'a [u64]),
    /// Byte keys; text is its UTF-8.
    Bytes(&'a [&'a [u8]]),
}

impl Keys<'_> {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::U64(keys) => keys.len(),
            Self::Bytes(keys) => keys.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        match self {
            Self::U64(_) => KeyType::U64,
            Self::Bytes(_) => KeyType::Bytes,
        }
    }

    /// The part of each key.
    pub(crate) fn parts(&self) -> Vec<Part> {
        match self {
            Self::U64(keys) => keys.iter().map(|key| part_of(hash_u64(*key))).collect(),
            Self::Bytes(keys) => keys.iter().map(|key| part_of(hash_bytes(key))).collect(),
        }
    }

    /// Bytes a section of the keys at `positions` takes in a request.
    pub(crate) fn section_bytes(&self, positions: &[u32]) -> usize {
        match self {
            Self::U64(_) => u64_section_bytes(positions.len()),
            Self::Bytes(keys) => bytes_section_bytes(positions.len(), key_bytes(keys, positions)),
        }
    }
}

/// Bytes of the keys at `positions`, in all.
pub(crate) fn key_bytes(keys: &[&[u8]], positions: &[u32]) -> usize {
    positions.iter().map(|position| keys[index(*position)].len()).sum()
}

/// A position as an index.
pub(crate) const fn index(position: u32) -> usize {
    // usize has at least 32 bits on every platform tokio runs on.
    position as usize
}

/// Some positions of a call's keys, ascending unless the caller's were not. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    shared: Arc<[u32]>,
    range: Range<usize>,
}

impl Deref for Positions {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.shared[self.range.clone()]
    }
}

impl From<Vec<u32>> for Positions {
    fn from(positions: Vec<u32>) -> Self {
        Self { range: 0..positions.len(), shared: positions.into() }
    }
}

impl Positions {
    /// The positions `0..count`.
    pub(crate) fn all(count: usize) -> Self {
        (0..u32::try_from(count).expect("a call has at most 2^30 keys")).collect::<Vec<_>>().into()
    }

    /// Some of these, by their order here.
    fn part(&self, range: Range<usize>) -> Self {
        debug_assert!(range.end <= self.len(), "a part of these");
        let start = self.range.start;
        Self { shared: Arc::clone(&self.shared), range: start + range.start..start + range.end }
    }

    /// Both halves; neither is empty. `None` if there are fewer than two.
    pub(crate) fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.len() / 2;
        (middle > 0).then(|| [self.part(0..middle), self.part(middle..self.len())])
    }

    /// These in pieces of at most `keys_max` keys and, for byte keys, `bytes_max` bytes of request. A single key is
    /// never divided, so one that is too long makes a piece of its own.
    pub(crate) fn pieces(&self, keys: &Keys<'_>, keys_max: usize, bytes_max: usize) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < self.len() {
            let mut end = self.len().min(start + keys_max.max(1));
            if let Keys::Bytes(keys) = keys {
                let mut bytes = 0;
                let fits = self[start..end].iter().position(|position| {
                    bytes += keys[index(*position)].len();
                    // With the offsets and the header of the section.
                    bytes_section_bytes(end - start, bytes) > bytes_max
                });
                end = fits.map_or(end, |fits| start + fits.max(1));
            }
            pieces.push(self.part(start..end));
            start = end;
        }
        pieces
    }
}

/// Positions by role.
#[derive(Debug)]
pub(crate) struct ByRole {
    positions: Positions,
    /// Where each role's group ends.
    ends: Vec<usize>,
}

impl ByRole {
    /// Groups `positions` by the role that serves their keys' parts: a counting sort, stable.
    pub(crate) fn group(positions: &[u32], parts: &[Part], roles: &RoleTable) -> Self {
        let role_of = |position: &u32| usize::from(roles.role_of(parts[index(*position)]).0);
        let mut starts = vec![0_usize; usize::from(roles.roles()) + 1];
        for position in positions {
            starts[role_of(position) + 1] += 1;
        }
        for role in 1..starts.len() {
            starts[role] += starts[role - 1];
        }
        let mut next = starts.clone();
        let mut grouped = vec![0; positions.len()];
        for position in positions {
            let slot = &mut next[role_of(position)];
            grouped[*slot] = *position;
            *slot += 1;
        }
        starts.remove(0);
        Self { positions: grouped.into(), ends: starts }
    }

    /// The groups that are not empty.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (Role, Positions)> + '_ {
        (0_u16..).zip(&self.ends).filter_map(|(role, end)| {
            let start = role.checked_sub(1).map_or(0, |before| self.ends[usize::from(before)]);
            (start < *end).then(|| (Role(role), self.positions.part(start..*end)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fkv_formats::route::legal_role_counts;
    use proptest::prelude::*;

    use super::*;

    fn role_table() -> impl Strategy<Value = RoleTable> {
        prop::sample::select(legal_role_counts()).prop_map(|count| RoleTable::new(count).expect("legal"))
    }

    proptest! {
        /// Every position is in exactly one group, that of the role that serves its key, in the order given.
        #[test]
        fn grouping_loses_nothing_and_keeps_the_order(
            keys in prop::collection::vec(any::<u64>(), 0..300), roles in role_table(), skip in 1..4_usize
        ) {
            let parts = Keys::U64(&keys).parts();
            let asked: Vec<u32> = Positions::all(keys.len()).iter().copied().step_by(skip).collect();
            let grouped = ByRole::group(&asked, &parts, &roles);
            let mut seen = BTreeSet::new();
            let mut last_role = None;
            for (role, positions) in grouped.groups() {
                prop_assert!(last_role < Some(role), "each role once, ascending");
                last_role = Some(role);
                prop_assert!(!positions.is_empty());
                prop_assert!(positions.is_sorted(), "the order is kept");
                for position in positions.iter() {
                    prop_assert_eq!(roles.role_of(part_of(hash_u64(keys[index(*position)]))), role);
                    prop_assert!(seen.insert(*position), "position {} twice", position);
                }
            }
            prop_assert_eq!(seen.into_iter().collect::<Vec<_>>(), asked);
        }

        #[test]
        fn pieces_are_within_the_limits_and_lose_nothing(
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..200),
            keys_max in 1..40_usize,
            bytes_max in 200..1000_usize,
        ) {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let all = Positions::all(keys.len());
            let pieces = all.pieces(&Keys::Bytes(&keys), keys_max, bytes_max);
            let joined: Vec<u32> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            prop_assert_eq!(joined, all.to_vec());
            for piece in &pieces {
                prop_assert!((1..=keys_max).contains(&piece.len()));
                let bytes = Keys::Bytes(&keys).section_bytes(piece);
                prop_assert!(bytes <= bytes_max || piece.len() == 1, "{} bytes in {} keys", bytes, piece.len());
            }
        }

        #[test]
        fn halves_are_whole_together(count in 0..50_usize) {
            match Positions::all(count).halves() {
                None => prop_assert!(count < 2),
                Some([left, right]) => {
                    prop_assert!(!left.is_empty() && !right.is_empty());
                    prop_assert_eq!([&*left, &*right].concat(), Positions::all(count).to_vec());
                }
            }
        }
    }
}
