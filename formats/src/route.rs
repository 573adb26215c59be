//! From a key's hash to the part that holds it, and from the part to the role that serves it.
//!
//! ```text
//!   h ── · 2400 ──▶ 128 bits ─┬─ high 64: part
//!                             └─ low 64:  f, the place within the part
//!   part ── role table of the sect ──▶ role
//! ```

use crate::id::{PART_COUNT, Part, Role};

/// The part of a hash.
#[inline]
#[must_use]
pub const fn part_of(h: u64) -> Part {
    // Below PART_COUNT, since h is below 2^64.
    Part(((h as u128 * PART_COUNT as u128) >> 64) as u16)
}

/// The place of a hash within its part, as a fraction of 2^64. Grows with the hash.
#[inline]
#[must_use]
pub const fn place(h: u64) -> u64 {
    h.wrapping_mul(PART_COUNT as u64)
}

/// The smallest hash of `part` whose place is at least `place`. It lies beyond the part if there is none.
#[must_use]
pub(crate) const fn first_hash(part: Part, place: u64) -> u128 {
    let scaled = ((part.0 as u128) << 64) | place as u128;
    scaled.div_ceil(PART_COUNT as u128)
}

/// How many roles a sect may have: every number below 100 that divides 2400.
const LEGAL_ROLE_COUNTS: [u16; 23] =
    [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 24, 25, 30, 32, 40, 48, 50, 60, 75, 80, 96];

/// The legal numbers of roles, ascending.
#[must_use]
pub const fn legal_role_counts() -> &'static [u16] {
    &LEGAL_ROLE_COUNTS
}

/// A number of roles that does not divide the parts evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} roles are not possible: a sect has {legal} roles", legal = legal_list())]
pub struct IllegalRoleCount(pub u16);

fn legal_list() -> String {
    let (last, rest) = LEGAL_ROLE_COUNTS.split_last().expect("the list is not empty");
    let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
    format!("{} or {last}", rest.join(", "))
}

/// Which role serves which part, for one number of roles.
///
/// Every role owns exactly 2400/N parts. Growing from N to M roles moves exactly the parts that the new roles
/// receive, for every pair of legal N < M: a part either stays or goes to a role that was not there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleTable {
    role_of: Vec<Role>,
    parts_of: Vec<Vec<Part>>,
}

impl RoleTable {
    /// The table for `roles` roles.
    ///
    /// # Errors
    /// [`IllegalRoleCount`] lists the legal numbers.
    pub fn new(roles: u16) -> Result<Self, IllegalRoleCount> {
        if !LEGAL_ROLE_COUNTS.contains(&roles) {
            return Err(IllegalRoleCount(roles));
        }
        // Each table comes from the next smaller one: every role gives up the tail of its list, and the new roles
        // share what was given up in that order. Tails keep runs of neighbouring parts long, and since a step only
        // ever moves parts to roles that are new in it, so do all steps together.
        let mut parts_of: Vec<Vec<Part>> = vec![(0..PART_COUNT).map(Part).collect()];
        for &count in LEGAL_ROLE_COUNTS.iter().filter(|&&count| count > 1 && count <= roles) {
            let share = usize::from(PART_COUNT / count);
            let surplus: Vec<Part> = parts_of.iter_mut().flat_map(|parts| parts.split_off(share)).collect();
            parts_of.extend(surplus.chunks_exact(share).map(|parts| {
                let mut parts = parts.to_vec();
                parts.sort_unstable();
                parts
            }));
        }
        let mut role_of = vec![Role(0); usize::from(PART_COUNT)];
        for (role, parts) in (0..roles).zip(&parts_of) {
            for part in parts {
                role_of[usize::from(part.0)] = Role(role);
            }
        }
        Ok(Self { role_of, parts_of })
    }

    /// The role that serves `part`.
    ///
    /// # Panics
    /// If `part` is not below [`PART_COUNT`]; [`part_of`] never gives such a part.
    #[inline]
    #[must_use]
    pub fn role_of(&self, part: Part) -> Role {
        self.role_of[usize::from(part.0)]
    }

    /// The parts that `role` serves, ascending; none if there is no such role.
    #[must_use]
    pub fn parts_of(&self, role: Role) -> &[Part] {
        self.parts_of.get(usize::from(role.0)).map_or(&[], Vec::as_slice)
    }

    /// The number of roles.
    #[must_use]
    pub fn roles(&self) -> u16 {
        u16::try_from(self.parts_of.len()).expect("at most 96 roles")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(roles: u16) -> RoleTable {
        RoleTable::new(roles).expect("a legal number of roles")
    }

    #[test]
    fn the_legal_counts_are_the_divisors_below_100() {
        let divisors: Vec<u16> = (1..100).filter(|n| PART_COUNT.is_multiple_of(*n)).collect();
        assert_eq!(legal_role_counts(), divisors);
    }

    #[test]
    fn an_illegal_count_is_told_the_legal_ones() {
        for roles in [0, 7, 100, 2400] {
            let error = RoleTable::new(roles).expect_err("illegal");
            assert!(error.to_string().ends_with("75, 80 or 96 roles"), "{error}");
        }
    }

    #[test]
    fn every_role_owns_its_exact_share_once() {
        for &roles in legal_role_counts() {
            let table = table(roles);
            assert_eq!(table.roles(), roles);
            let mut owned: Vec<Part> = Vec::new();
            for role in (0..roles).map(Role) {
                let parts = table.parts_of(role);
                assert_eq!(parts.len(), usize::from(PART_COUNT / roles));
                assert!(parts.is_sorted());
                assert!(parts.iter().all(|&part| table.role_of(part) == role));
                owned.extend(parts);
            }
            owned.sort_unstable();
            assert!(owned.into_iter().eq((0..PART_COUNT).map(Part)), "{roles} roles");
            assert!(table.parts_of(Role(roles)).is_empty());
        }
    }

    #[test]
    fn growing_moves_only_what_new_roles_receive_for_every_pair() {
        let tables: Vec<RoleTable> = legal_role_counts().iter().map(|&roles| table(roles)).collect();
        for (index, small) in tables.iter().enumerate() {
            for large in &tables[index + 1..] {
                let moved = (0..PART_COUNT)
                    .map(Part)
                    .filter(|&part| small.role_of(part) != large.role_of(part))
                    .inspect(|&part| {
                        assert!(large.role_of(part).0 >= small.roles(), "part {part} moved between old roles")
                    })
                    .count();
                let received = usize::from(large.roles() - small.roles()) * usize::from(PART_COUNT / large.roles());
                assert_eq!(moved, received, "{} to {} roles", small.roles(), large.roles());
            }
        }
    }

    /// The tables are part of the protocol between servers and clients: a change would make them disagree.
    #[test]
    fn the_tables_are_frozen() {
        let runs = |roles| {
            let table = table(roles);
            (1..PART_COUNT).filter(|&part| table.role_of(Part(part)) != table.role_of(Part(part - 1))).count() + 1
        };
        assert_eq!([1, 2, 3, 6, 12].map(runs), [1, 2, 4, 14, 31]);
        let mut bytes = Vec::new();
        for &roles in legal_role_counts() {
            bytes.extend(table(roles).role_of.iter().flat_map(|role| role.0.to_le_bytes()));
        }
        assert_eq!(crate::hash::hash_bytes(&bytes), 4_940_461_073_795_867_731);
    }

    proptest! {
        #[test]
        fn parts_and_places_follow_the_order_of_hashes(a: u64, b: u64) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!((part_of(low), place(low)) <= (part_of(high), place(high)));
            prop_assert!(part_of(high).0 < PART_COUNT);
        }

        #[test]
        fn the_first_hash_of_a_place_is_the_first(part in 0..PART_COUNT, at: u64) {
            let first = first_hash(Part(part), at);
            if let Ok(h) = u64::try_from(first) && part_of(h) == Part(part) {
                prop_assert!(place(h) >= at);
            }
            if let Ok(before) = u64::try_from(first.wrapping_sub(1)) {
                prop_assert!((part_of(before), place(before)) < (Part(part), at));
            }
        }
    }
}
